"""An exported folder is the model that it came from: the same weights, the same tokens, the same template."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer

from specsafe.errors import UserError
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.export import export
from specsafe.models.store import resolve
from specsafe.models.tokenizer import load_tokenizer

pytestmark = pytest.mark.model
TEXTS = (
    "What is 2345 + 7?",
    " Straße naïve 東京 \U0001f600\n\n\tdef f(x):  return x",
    "<|im_start|>user\nhello<|im_end|>",
    "a\u202eb\x07",
)


def specsafe(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "specsafe", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def draft(tmp_path_factory):
    """The first two layers of the real model, as the command line exports them."""
    folder = tmp_path_factory.mktemp("export") / "draft"
    done = specsafe("models", "export", "smollm2-135m-instruct-q4_1", folder, "--keep", "0-1")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_weights_are_those_of_the_layers_that_were_kept(draft):
    whole, kept = (load_checkpoint(p, torch.bfloat16) for p in (resolve("smollm2-135m-instruct-q4_1"), draft))
    assert kept.architecture.layers == 2
    assert kept.architecture.inverse_frequencies == whole.architecture.inverse_frequencies
    assert set(kept.tensors) < set(whole.tensors)
    assert all(torch.equal(t, whole.tensors[n]) for n, t in kept.tensors.items())


def test_other_readers_cut_text_as_we_do_and_know_the_template(draft):
    theirs = AutoTokenizer.from_pretrained(draft)
    ours = load_tokenizer(resolve("smollm2-135m-instruct-q4_1"))
    for text in TEXTS:
        plain = text.replace("<|", "< |")
        assert theirs(plain).input_ids == list(ours.encode(plain))
    messages = [{"role": "user", "content": "hello"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True)
    ids = ids if isinstance(ids, list) else ids["input_ids"]
    assert theirs.decode(ids).endswith("hello<|im_end|>\n<|im_start|>assistant\n")
    assert len(theirs) == 49152
    assert json.loads((draft / "generation_config.json").read_text())["eos_token_id"] == [0, 2]


def test_a_folder_with_something_in_it_and_a_file_that_is_no_model_are_refused(draft, tmp_path):
    with pytest.raises(UserError, match="not empty"):
        export(resolve("smollm2-135m-instruct-q4_1"), draft, "bfloat16")
    (tmp_path / "no.gguf").write_bytes(b"no model")
    done = specsafe("models", "export", tmp_path / "no.gguf", tmp_path / "new")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert specsafe("models", "export", "x", tmp_path / "new", "--dtype", "float16").returncode == 2
