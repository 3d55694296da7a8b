"""Room: drafts/layers. Laws: a draft is its target with fewer layers and nothing else changed, byte for byte."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsafe.drafts import draft_file, model_file, requantize
from specsafe.drafts.layers import drop_layers, format_keep, layer_count, parse_keep
from specsafe.drafts.requantize import TYPES
from specsafe.errors import UserError
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.gguf_file import model_facts
from specsafe.models.store import resolve

LAYERS = 4


# --- The grammar of layers ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.sets(st.integers(0, 60), min_size=1).map(sorted))
def test_parsing_undoes_formatting(keep):
    assert list(parse_keep(format_keep(keep))) == keep


@pytest.mark.parametrize(
    ("text", "keep"),
    [("0-3+7+9-10", (0, 1, 2, 3, 7, 9, 10)), ("5", (5,)), (" 0-1 + 3 ", (0, 1, 3)), ("4-4", (4,))],
)
def test_ranges_are_joined_by_plus(text, keep):
    assert parse_keep(text) == keep


def test_the_shortest_form_is_written():
    assert format_keep([0, 1, 2, 4, 6, 7]) == "0-2+4+6-7"
    assert format_keep(parse_keep("0+1+2+3")) == "0-3"


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1,2", "0-3+", "1-2-3", "1.5", "0–3"])
def test_anything_else_is_an_error_that_shows_the_text(text):
    with pytest.raises(UserError) as error:
        parse_keep(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("text", ["5-3", "5-3+7"])
def test_a_range_that_runs_backwards_is_an_error(text):
    with pytest.raises(UserError):
        parse_keep(text)


# --- A small file of ours -----------------------------------------------------------------------------------


def write_gguf(path: Path, *, template: str = "{{ messages }}", tokens: tuple[str, ...] = ("a", "b")) -> Path:
    """Four layers of two tensors, an embedding, a head, and metadata of every shape that matters."""
    random = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_name("toy")
    writer.add_rope_freq_base(1e5)
    writer.add_languages(["en", "tr"])
    writer.add_chat_template(template)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(tokens))
    writer.add_token_types([1] * len(tokens))
    writer.add_add_bos_token(False)
    writer.add_tensor("token_embd.weight", random.normal(size=(8, 32)).astype(np.float32))
    for layer in range(LAYERS):
        quantized = gguf.quants.quantize(random.normal(size=(4, 32)), gguf.GGMLQuantizationType.Q4_0)
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", random.normal(size=32).astype(np.float32))
    writer.add_tensor("output.weight", random.normal(size=(8, 32)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_gguf(tmp_path / "toy.gguf")


def tensors(reader: Any) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in reader.tensors}


def metadata(reader: Any) -> dict[str, object]:
    counted = ("GGUF.tensor_count",)
    return {name: (f.types, f.contents()) for name, f in reader.fields.items() if name not in counted}


def expected_tensors(source: Any, keep: list[int]) -> dict[str, tuple[str, bytes]]:
    """What a draft must hold: kept layers under their new numbers, everything else as it is."""
    found = {}
    for name, content in tensors(source).items():
        if not name.startswith("blk."):
            found[name] = content
        elif int(name.split(".")[1]) in keep:
            _, old, rest = name.split(".", 2)
            found[f"blk.{keep.index(int(old))}.{rest}"] = content
    return found


@pytest.mark.parametrize("keep", [[0], [3], [0, 2], [1, 2, 3], [0, 1, 2, 3]], ids=format_keep)
def test_kept_layers_are_renumbered_and_nothing_else_changes(toy, tmp_path, keep):
    source, draft = (gguf.GGUFReader(p) for p in (toy, drop_layers(toy, keep, tmp_path / "draft.gguf")))
    assert tensors(draft) == expected_tensors(source, keep)
    want, have = metadata(source), metadata(draft)
    assert have.pop("llama.block_count")[1] == len(keep)
    want.pop("llama.block_count")
    assert have == want
    assert layer_count(toy) == LAYERS
    assert layer_count(tmp_path / "draft.gguf") == len(keep)


def test_a_draft_of_a_draft_is_a_draft(toy, tmp_path):
    twice = drop_layers(drop_layers(toy, [0, 2, 3], tmp_path / "a.gguf"), [0, 2], tmp_path / "b.gguf")
    once = drop_layers(toy, [0, 3], tmp_path / "c.gguf")
    assert twice.read_bytes() == once.read_bytes()


@pytest.mark.parametrize("keep", [[], [1, 0], [0, 0], [-1, 0], [0, 4]])
def test_layers_that_do_not_exist_or_are_out_of_order_are_refused(toy, tmp_path, keep):
    with pytest.raises(UserError, match=r"within 0\.\.3"):
        drop_layers(toy, keep, tmp_path / "draft.gguf")
    assert not list(tmp_path.glob("draft*"))


def test_only_the_draft_is_left_behind(toy, tmp_path):
    drop_layers(toy, [0], tmp_path / "draft.gguf")
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["draft.gguf", "toy.gguf"]


def test_a_draft_file_is_made_once(toy):
    first = draft_file(toy, "0+1+3")
    made = first.stat().st_mtime_ns
    assert first.name.endswith("-0-1+3.gguf")
    assert draft_file(toy, "0-1+3") == first
    assert first.stat().st_mtime_ns == made
    assert draft_file(toy, "0") != first


def test_facts_tell_tokenizer_and_template_apart(toy, tmp_path):
    facts = model_facts(toy)
    other_template = model_facts(write_gguf(tmp_path / "template.gguf", template="{{ other }}"))
    other_tokens = model_facts(write_gguf(tmp_path / "tokens.gguf", tokens=("a", "c")))
    assert other_template.tokenizer_sha256 == facts.tokenizer_sha256
    assert other_template.chat_template_sha256 != facts.chat_template_sha256
    assert other_tokens.tokenizer_sha256 != facts.tokenizer_sha256
    assert other_tokens.chat_template_sha256 == facts.chat_template_sha256
    assert len({facts.sha256, other_template.sha256, other_tokens.sha256}) == 3


def test_a_file_that_changed_is_read_again(toy):
    before = model_facts(toy)
    write_gguf(toy, template="{{ something else that is longer }}")
    assert model_facts(toy).chat_template_sha256 != before.chat_template_sha256


# --- Damaged files ------------------------------------------------------------------------------------------

READERS = {
    "facts": model_facts,
    "count": layer_count,
    "drop": lambda path: drop_layers(path, [0], path.with_name("draft.gguf")),
}


def damage(toy: Path, name: str) -> Path:
    data = toy.read_bytes()
    toy.write_bytes(
        {
            "empty": b"",
            "a page": b"<html>404</html>" * 50,
            "another magic": b"FUGG" + data[4:],
            "another version": data[:4] + b"\x63" + data[5:],
            "only the magic": data[:4],
            "half the metadata": data[:120],
            "half the tensors": data[:-500],
        }[name]
    )
    return toy


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", ["empty", "a page", "another magic", "another version", "half the tensors"])
def test_a_damaged_file_is_one_line_that_names_it(toy, name, read):
    with pytest.raises(UserError, match="is not a readable GGUF file") as error:
        read(damage(toy, name))
    assert str(toy) in str(error.value)
    assert not list(toy.parent.glob("draft*"))


@pytest.mark.parametrize("name", ["only the magic", "half the metadata"])
@pytest.mark.parametrize(
    "read",
    [
        model_facts,
        layer_count,
        READERS["drop"],
    ],
    ids=READERS,
)
def test_a_file_cut_in_its_metadata_is_one_line_that_names_it(toy, name, read):
    with pytest.raises(UserError, match="is not a readable GGUF file") as error:
        read(damage(toy, name))
    assert str(toy) in str(error.value)


@pytest.mark.parametrize("read", [layer_count, READERS["drop"]], ids=["count", "drop"])
def test_a_missing_file_is_one_line_that_names_it(tmp_path, read):
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "none.gguf"))):
        read(tmp_path / "none.gguf")


# --- The real model -----------------------------------------------------------------------------------------

KEEP = [0, 1, 14, 29]


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[Path, Any, Path]]:
    """The default model, its reader, and a folder for drafts that is removed."""
    model = resolve(DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        yield model, gguf.GGUFReader(model), Path(folder)


@pytest.mark.model
def test_a_real_draft_keeps_tokenizer_template_and_every_kept_byte(real):
    model, source, folder = real
    path = drop_layers(model, KEEP, folder / "draft.gguf")
    assert model_facts(path)[1:] == model_facts(model)[1:]
    assert model_facts(path).sha256 != model_facts(model).sha256
    draft = gguf.GGUFReader(path)
    assert draft.fields["llama.block_count"].contents() == len(KEEP)
    assert tensors(draft) == expected_tensors(source, KEEP)


@pytest.mark.model
def test_keeping_all_real_layers_reproduces_every_tensor(real):
    model, source, folder = real
    copy = gguf.GGUFReader(drop_layers(model, range(30), folder / "copy.gguf"))
    assert tensors(copy) == tensors(source)
    assert metadata(copy) == metadata(source)


# --- The same network in another storage type ------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_only_the_matrices_of_a_requantized_model_change_and_little(toy, tmp_path, kind):
    source, made = (gguf.GGUFReader(p) for p in (toy, requantize(toy, kind, tmp_path / "made.gguf")))
    assert metadata(made) == metadata(source)
    for before, after in zip(source.tensors, made.tensors, strict=True):
        assert (before.name, list(before.shape)) == (after.name, list(after.shape))
        if len(before.shape) < 2:
            assert after.data.tobytes() == before.data.tobytes()
            continue
        assert after.tensor_type.name == kind.upper()
        rows, again = (gguf.quants.dequantize(t.data, t.tensor_type) for t in (before, after))
        assert np.abs(rows - again).max() < 0.5
        assert np.any(rows != again) or before.name.startswith("blk.")  # those were stored in blocks before


def test_a_model_is_named_with_its_change_and_made_once(toy):
    for name, made in (("q8_0", model_file(f"{toy}@q8_0")), ("layers:0-1", model_file(f"{toy}@layers:0-1"))):
        before = made.stat().st_mtime_ns
        assert model_file(f"{toy}@{name}") == made
        assert made.stat().st_mtime_ns == before
        assert model_facts(made).tokenizer_sha256 == model_facts(toy).tokenizer_sha256
    assert model_file(str(toy)) == toy


@pytest.mark.parametrize("change", ["q3_k", "layers:9", "", "layers:a"])
def test_a_change_that_nobody_can_make_is_refused(toy, change):
    with pytest.raises(UserError):
        model_file(f"{toy}@{change}")
