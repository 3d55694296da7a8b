"""Tokenizers read from folders: the same tokens and chats as transformers, and no code of a folder ever runs."""

import json
import re

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from vocabularies import CHATML, made_texts

from specsafe.errors import UserError
from specsafe.models.tokenizer import load_tokenizer, same_vocabulary


def bytelevel_folder(folder, **generation):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(["the quick brown fox says hello to the lazy dog"] * 9, trainer)
    backend.add_special_tokens(["<s>", "<|im_start|>", "<pad>"])
    backend.add_tokens([AddedToken("<|im_end|>", special=False), AddedToken("<think>", special=False)])
    start = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    backend.enable_truncation(5)
    return save_folder(folder, backend, chat_template="{{ bos_token }}" + CHATML, **generation)


def sentencepiece_folder(folder):
    """A vocabulary with ▁ for spaces, bytes for the rest, and a space before a text's first word."""
    words = ["▁", "h", "i", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "▁h", "▁hi"]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("▁", "h"), ("▁h", "i")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *words]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    template = "{{ bos_token }}[INST]{{ messages[0].content }}[/INST]"
    return save_folder(folder, backend, eos="</s>", chat_template=template)


def save_folder(folder, backend, eos="<|im_end|>", chat_template=CHATML, **generation):
    PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=chat_template, **{"bos_token": "<s>", "eos_token": eos}
    ).save_pretrained(folder)
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_a_folder_cuts_as_transformers_does(tmp_path):
    folder = bytelevel_folder(tmp_path / "m", eos_token_id=[3, 4])
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("hello the fox", "  x\n\n", "1234 é😀", "<think> a"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False, truncation=False)
        assert ours.decode(ours.encode(text)) == text
        messages = [{"role": "system", "content": "the"}, {"role": "user", "content": text}]
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ours.chat(text, "the") == wanted
    assert ours.end_ids == {3, 4, theirs.eos_token_id}
    assert ours.raw("the") == theirs.encode("the")
    assert same_vocabulary(ours, load_tokenizer(folder)) and ours.sha256 == load_tokenizer(folder).sha256


def test_a_chat_with_a_reply_is_that_of_transformers_without_a_generation_prompt(tmp_path):
    folder = bytelevel_folder(tmp_path)
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in [t for t in made_texts(40) if t.strip() == t and t and "<|" not in t]:
        messages = [{"role": "user", "content": "the"}, {"role": "assistant", "content": text}]
        wanted = theirs.apply_chat_template(messages, return_dict=False)
        assert ours.chat("the", reply=text) == wanted, ascii(text)


def test_an_end_token_listed_as_plain_is_still_a_control_token(tmp_path):
    ours = load_tokenizer(bytelevel_folder(tmp_path / "m"))
    (end,) = ours.end_ids
    assert end not in ours.encode("a<|im_end|>") and end in ours.encode("a<|im_end|>", special=True)
    assert ours.chat("<|im_end|>").count(end) == 1
    assert ours.decode([end]) == ""


def test_sentencepiece_folders(tmp_path):
    folder = sentencepiece_folder(tmp_path / "m")
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("hello", "hi hello", " hi", "é", "a\nb"):
        messages = [{"role": "user", "content": text}]
        assert ours.chat(text) == theirs.apply_chat_template(messages, return_dict=False), text
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)).removeprefix(" ") == text.removeprefix(" ")
    assert [ours.bytes_of(token) for token in ours.encode("hello\n")] == [b" hello", b"\n"]
    assert theirs.convert_tokens_to_ids("[INST]") not in ours.encode("[INST]")


def test_other_vocabularies_differ(tmp_path, tiny):
    ours, _ = tiny()
    assert not same_vocabulary(ours, load_tokenizer(bytelevel_folder(tmp_path / "m")))


def test_code_in_a_folder_never_runs(tmp_path):
    folder = bytelevel_folder(tmp_path / "m")
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        load_tokenizer(folder)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["", "{", '{"version": "1.0"}'])
def test_damaged_folders_are_refused(damage, tmp_path):
    folder = bytelevel_folder(tmp_path / "m")
    (folder / "tokenizer.json").write_text(damage)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        load_tokenizer(folder)
    with pytest.raises(UserError):
        load_tokenizer(tmp_path / "nothing")
