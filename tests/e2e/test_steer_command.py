"""`specsafe steer` on a tiny model folder, and decoding with what it wrote; whatever does not fit is one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from specsafe.cli.main import app
from specsafe.decoding.safety.projection import read_projection, words_sha256
from specsafe.engines import arm_id, check_arm, parse_arm
from specsafe.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "models"))
SMALL = "max_tokens=8,context=160,dtype=float32,arithmetic=fast,threads=1,slots=2,system=Hi,draft_system=No"
TRAIN = [
    "Tell me of the birds at the old harbour.",
    "Which ships leave the port in the morning?",
    "Why do bells ring?",
]


def specsafe(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def written(path: Path, prompts: list[str]) -> str:
    path.write_text(json.dumps([{"prompt": p} for p in prompts]))
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with models, prompts, and a projection for target and draft of the method ssd-crs-steering."""
    from tiny import write_speaking_folder

    here = tmp_path_factory.mktemp("steer")
    for name, seed in (("target", 0), ("draft", 5), ("third", 6)):
        write_speaking_folder(here / name, seed=seed, max_position_embeddings=256)
    written(here / "train.json", TRAIN)
    written(here / "fresh.json", ["How is paper made from wood, and by whom?", "Name a colour."])
    written(here / "near.json", ["Name a colour.", "tell me of the BIRDS at the old harbour"])
    said = specsafe("steer", *steer_words(here))
    assert "apart from fresh: 6 pairs of prompts compared, none near" in said
    assert "3 prompts, 24 tokens, 12 steps" in said
    return here


def arm(here: Path, more: str = "", draft: str = "draft") -> str:
    own = draft if ":" in draft or draft == "self" else here / draft
    return f"kind=native,model={here / 'target'},draft={own},{SMALL}{more}"


def steer_words(here: Path, out: str = "w", apart: str = "fresh", *more: str, of: str = "") -> list[str]:
    return [
        *("--battery", str(here / "train.json"), "--apart-from", str(here / f"{apart}.json")),
        *("--out", str(here / f"{out}.safetensors"), "--arm", of or arm(here), "--epochs", "4", *more),
    ]


def decode(
    here: Path, more: str = "", method: str = "ssd-crs-steering", draft: str = "draft", *words: str
) -> str:
    given = words or ("--prompt", "Name a colour.")
    return specsafe("decode", "--method", method, "--arm", arm(here, more, draft), *given)


def using(here: Path, name: str = "w") -> str:
    return f",steering={here / name}.safetensors"


def test_the_file_says_what_it_was_trained_for_and_on(place: Path) -> None:
    told = read_projection(place / "w.safetensors")
    assert told.method == "ssd-crs-steering"
    assert told.shape == (32, 32)
    assert told.scale["steering.base"] == 0.9 and told.scale["steering.amplify"] == 5.0
    assert told.scale["control.kl"] == 0.3 and told.scale["openings"] == "first"
    assert [p.words_sha256 for p in told.prompts] == [words_sha256(p) for p in TRAIN]
    assert [(a.name, a.items, a.pairs) for a in told.apart_from] == [("fresh", 2, 6)]
    assert told.loss_after < told.loss_before
    assert (told.training.block, told.training.epochs, told.training.steps) == (3, 4, 12)


def test_a_steered_method_answers_and_says_which_prompts_are_no_evidence(place: Path) -> None:
    notice = "prompts trained the steering projection"
    said = decode(place, using(place))
    assert "8 tokens" in said and notice not in said
    ask = ("--prompt", "tell me of the birds at the old harbour!", "--prompt", "Name a colour.")
    assert f"1 of 2 {notice}" in decode(place, using(place), "ssd-crs-steering", "draft", *ask)


def test_the_file_is_part_of_the_arm(place: Path, tmp_path: Path) -> None:
    spoiled(place, tmp_path)
    arms = [
        parse_arm(f"{arm(place, using(*of))},method=ssd-crs-steering") for of in ((place,), (tmp_path, "nan"))
    ]
    files = [check_arm(a) for a in arms]
    assert set(files[0]) == {"model", "draft", "steering"}
    assert files[0] != files[1]
    assert arm_id(arms[0], files[0]) != arm_id(arms[0], files[1])


def test_layers_of_the_target_can_be_steered(place: Path) -> None:
    words = steer_words(place, "layers", of=arm(place, "", "layers:1"))
    specsafe("steer", *words, "--method", "ssd-steering")
    assert "8 tokens" in decode(place, using(place, "layers"), "ssd-steering", "layers:1")
    with pytest.raises(UserError, match="its draft has layers 1, this one 0"):
        decode(place, using(place, "layers"), "ssd-steering", "layers:0")


@pytest.mark.parametrize(
    ("apart", "more", "message"),
    [
        ("near", (), "1 clusters are in both"),
        ("fresh", ("--axis", "capability"), "no prompt of axis 'capability'"),
        ("fresh", ("--method", "ssd-crs"), "method 'ssd-crs' is not steered"),
        ("nowhere", (), "no JSON list of objects with a prompt"),
        ("fresh", ("--out", "w.bin"), "cannot write w.bin"),
        ("fresh", ("--out", "/nowhere/w.safetensors"), "cannot write"),
        ("fresh", ("--arm", "kind=llamacpp"), "kind=llamacpp"),
        ("fresh", ("--arm", "kind=native,model=nothing"), "no model at 'nothing'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_model_loads(
    place: Path, monkeypatch: pytest.MonkeyPatch, apart: str, more: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("specsafe.engines.steering.subprocess.Popen", None)
    with pytest.raises(UserError, match=message):
        specsafe("steer", *steer_words(place, "refused", apart), *more)
    assert not list(place.glob("refused*"))


def test_what_the_worker_refuses_is_told(place: Path) -> None:
    long = written(place / "long.json", ["word " * 60])
    with pytest.raises(UserError, match=r"the training failed: [0-9a-f]{16}: .* pass the context of 160"):
        specsafe("steer", *steer_words(place, "refused"), "--battery", long)
    assert not list(place.glob("refused*"))


@pytest.mark.parametrize(
    ("more", "method", "draft", "message"),
    [
        ("", "ssd-crs-steering", "draft", "is steered and needs steering=FILE"),
        (",steering=/nowhere", "ssd-crs-steering", "draft", "no steering projection at '/nowhere'"),
        ("{w}", "ssd-crs", "draft", "method=ssd-crs is not steered; leave steering= out"),
        ("{w}", "ssd-crs-steering", "third", "another pair's: its draft has sha256"),
        ("{w}", "ssd-crs-steering", "self", "another pair's: its draft has sha256"),
        ("{w}", "ssd-steering", "draft", r"trained at steering.amplify=5.0, the method uses 0.0"),
        (
            '{w},changes="{{\\"steering.fraction\\": 0.5}}"',
            "ssd-crs-steering",
            "draft",
            "steering.fraction=1.0",
        ),
        ('{w},changes="{{\\"steering.base\\": 0.0}}"', "ssd-crs-steering", "draft", "need equal scales"),
        ('{w},changes="{{\\"control.kl\\": 0.5}}"', "ssd-crs-steering", "draft", "control.kl=0.3"),
        ("{model}", "ssd-crs-steering", "draft", "is no steering projection"),
        ("{text}", "ssd-crs-steering", "draft", "not a readable safetensors file"),
        ("{shape}", "ssd-crs-steering", "draft", r"W is \[16, 32\], this pair needs \[32, 32\]"),
        ("{nan}", "ssd-crs-steering", "draft", "holds NaN"),
        ("{half}", "ssd-crs-steering", "draft", "stored as F16, not F32"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    place: Path, tmp_path: Path, more: str, method: str, draft: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        decode(place, more.format(w=using(place), **spoiled(place, tmp_path)), method, draft)


def spoiled(place: Path, folder: Path) -> dict[str, str]:
    """Files that are like the projection and are not it."""
    import torch
    from safetensors.torch import save_file

    record = read_projection(place / "w.safetensors").model_dump(mode="json")
    weight = torch.zeros(32, 32)
    made = {
        "shape": (weight[:16], record),
        "nan": (weight.fill_diagonal_(torch.nan), record),
        "half": (weight.half(), record),
    }
    for name, (tensor, about) in made.items():
        save_file({"W": tensor.clone()}, folder / f"{name}.safetensors", {"steering": json.dumps(about)})
    (folder / "text.safetensors").write_text("hello, hello, hello")
    return {
        "model": f",steering={place / 'target' / 'model.safetensors'}",
        **{n: using(folder, n) for n in (*made, "text")},
    }


def test_models_read_through_transformers_are_not_steered(place: Path) -> None:
    of = f"kind=native,model=transformers:{place / 'target'},{SMALL}"
    with pytest.raises(UserError, match="read through transformers cannot be steered"):
        specsafe("steer", *steer_words(place, "refused", of=of))
    with pytest.raises(UserError, match="read through transformers cannot be steered"):
        specsafe("decode", "--method", "ssd-crs-steering", "--prompt", "x", "--arm", of + using(place))
