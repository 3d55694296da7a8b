"""A tokenizer of a tiny vocabulary, read from a file that is written for it."""

import pytest


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path, cache):
    """A function that writes a GGUF with the tiny vocabulary and reads its tokenizer."""
    from tiny import tiny_model, write_gguf
    from vocabularies import CHATML, tiny_vocabulary

    from specsafe.models.tokenizer import load_tokenizer

    vocabulary, ids = tiny_vocabulary()

    def make(**changes):
        options = {
            "pre": "gpt-2",
            "template": CHATML,
            "eos_token_id": ids["<|im_end|>"],
            "bos_token_id": ids["<s>"],
        }
        model = tiny_model("llama", vocab_size=len(vocabulary["tokens"]))
        write_gguf(model, tmp_path / "m.gguf", tokenizer=vocabulary | options | changes)
        return load_tokenizer(tmp_path / "m.gguf"), ids

    return make
