"""Room: decoding/safety/training. Laws: it replays the loop's rounds at its scales, lowers the loss, and repeats itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toys  # finds tiny
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import write_speaking_folder

from specsafe.decoding.drafters import NetworkDrafter
from specsafe.decoding.loop import Decoder, Plan
from specsafe.decoding.rules import Agreement
from specsafe.decoding.safety import training
from specsafe.decoding.safety.decider import MethodDecider
from specsafe.decoding.safety.methods import find
from specsafe.decoding.safety.projection import Pair, read_projection, scale_of, words_sha256
from specsafe.decoding.safety.steering import Steerer, load_projection
from specsafe.decoding.safety.training import course_of, lessons_of, loss, teach, train
from specsafe.decoding.stack import Stack, open_stack
from specsafe.engines import parse_arm
from specsafe.engines.native import stack_config
from specsafe.errors import UserError

HIDDEN = 32
PROMPTS = {"a": "Count the birds.", "b": "Where is the harbour?", "c": "x"}
GREEDY = {"intersection.alpha": 0.0, "union.alpha": 0.0}  # the method then says what the target says
PAIR = Pair(target_sha256="t", draft_sha256="d")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("models")
    for name, seed in (("target", 0), ("draft", 0)):
        write_speaking_folder(where / name, seed=seed, max_position_embeddings=256)
    write_speaking_folder(where / "other", seed=5, max_position_embeddings=256, hidden_size=48)
    return where


def config(
    folder: Path,
    draft: str = "self",
    *,
    method: str = "ssd-crs-steering",
    drafted: int = 3,
    alike=False,
    **changes,
):
    set_ = json.dumps(json.dumps(GREEDY | changes))
    own = draft if draft == "self" or ":" in draft else folder / draft
    arm = parse_arm(
        f"kind=native,model={folder / 'target'},draft={own},method={method},num_speculative_tokens={drafted},"
        f'max_tokens=14,context=128,dtype=float32,arithmetic=fast,threads=1,slots=2,system="Be kind.",'
        f'draft_system="{"Be kind." if alike else "Refuse."}",changes={set_}'
    )
    return stack_config(arm)


def weight(stack: Stack, size: float = 1.0) -> torch.Tensor:
    rows = stack.draft.architecture.hidden_size
    return size * torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(2))


def decoded(stack: Stack, w: torch.Tensor, drafted: int):
    """The loop itself, on the same prompts, with columns."""
    plan = Plan(Agreement(), stack.stop_rule(), drafted=drafted, slots=2, capacity=128, telemetry=True)
    drafter = NetworkDrafter(stack.draft, 2, 140, toys.CPU, temperature=0.0, sampled=False)
    decider = MethodDecider(stack.method, stack.openings(stack.method), telemetry=True)
    steerer = Steerer(stack.method.steering, w, *stack.steerable(), lambda: decider.risk)
    drafter.steer = steerer.push
    decoder = Decoder(stack.target, drafter, plan, decider, steerer)
    return {a.item: a for a in decoder.generate(stack.prompt(i, t) for i, t in PROMPTS.items())}


@pytest.mark.parametrize(
    ("draft", "drafted", "size"),
    [("other", 1, 1.0), ("layers:1", 1, 2.0), ("self", 3, 0.003), ("self", 5, 0.003)],
)
def test_training_adds_what_decoding_adds_at_the_same_scales(
    folder: Path, draft: str, drafted: int, size: float
) -> None:
    """Where rounds are blocks (one token each, or all guesses right), every number of the controller is the same."""
    loud = {"control.openings": 10.0} if draft == "self" else {}
    stack = open_stack(config(folder, draft, drafted=drafted, alike=draft == "self", **loud))
    course, w = course_of(stack), weight(stack, size)
    answers = decoded(stack, w, drafted)
    apart = 0.0
    for item, lesson in zip(PROMPTS, lessons_of(stack, course, PROMPTS), strict=True):
        answer = answers[item]
        assert answer.tokens == tuple(lesson.said.tolist())
        if drafted > 1:
            assert answer.accepted == len(answer.tokens), "a guess was wrong: choose another size"
        with torch.no_grad():
            told = teach(course, lesson, w)
        risk = [0.0, *answer.columns["risk"][1:]]
        wanted = [0.9 * (1 + 5 * risk[n]) for n in range(0, len(risk), drafted)]
        assert told.scales.tolist() == pytest.approx(wanted, rel=1e-4)
        apart = max(apart, *(abs(s - 0.9) for s in wanted))
        scores, logits = told.scores, told.logits
        distance = (scores.softmax(-1) * (scores.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
        assert distance.tolist() == pytest.approx(answer.columns["distance"], rel=1e-3, abs=1e-5)
        assert scores.argmax(-1).tolist() == list(answer.columns["draft_token"])
    assert apart > 0.05, "the controller's score never moved a scale"


def test_the_loss_is_a_divergence_that_finite_differences_confirm(folder: Path) -> None:
    stack = open_stack(config(folder, "other", **{"steering.amplify": 0.0}))
    course = course_of(stack)
    lesson = next(lessons_of(stack, course, PROMPTS))
    w = weight(stack, 0.5).requires_grad_()
    value = loss(course, lesson, w)
    (gradient,) = torch.autograd.grad(value, w)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        slope = (loss(course, lesson, w + step) - loss(course, lesson, w - step)) / 2e-2
    assert value.item() > 0
    assert float(slope) == pytest.approx(float(gradient.norm()), rel=0.02)


@pytest.mark.parametrize(
    ("draft", "method"),
    [("other", "ssd-crs-steering"), ("self", "ssd-steering"), ("layers:0", "ssd-crs-steering")],
)
def test_training_lowers_the_loss_and_repeats_itself(
    folder: Path, tmp_path: Path, draft: str, method: str
) -> None:
    changes = {"steering.base": 4.0} | ({} if "crs" in method else {"control.alpha_floor": 0.0})
    told: list[tuple[int, int]] = []
    files = []
    epochs = 12
    for name in ("one", "two"):
        out = tmp_path / f"{name}.safetensors"
        made = train(
            config(folder, draft, method=method, **changes),
            PROMPTS,
            out,
            pair=PAIR,
            apart_from=(),
            epochs=epochs,
            report=lambda done, planned: told.append((done, planned)),
        )
        files.append(out.read_bytes())
        assert made == read_projection(out)
        with safe_open(out, framework="pt") as opened:
            w = opened.get_tensor("W")
        assert tuple(w.shape) == made.shape == (48 if draft == "other" else HIDDEN, HIDDEN)
        assert w.abs().max() > 0
    assert files[0] == files[1]
    assert made.loss_after < 0.95 * made.loss_before
    assert told == [(n, 42) for n in range(1, 43)] * 2
    assert made.scale == scale_of(find(method, GREEDY | changes))
    assert [p.item for p in made.prompts] == list(PROMPTS)
    assert words_sha256("  COUNT the birds ") == made.prompts[0].words_sha256


def test_a_projection_of_another_shape_or_of_no_numbers_is_refused(folder: Path, tmp_path: Path) -> None:
    target, draft = open_stack(config(folder, "other")).steerable()
    path = tmp_path / "w.safetensors"
    for tensor, said in (
        (torch.zeros(HIDDEN, HIDDEN), r"W is \[32, 32\], this pair needs \[48, 32\]"),
        (torch.full((48, HIDDEN), torch.inf), "holds NaN or infinite"),
    ):
        save_file({"W": tensor}, path)
        with pytest.raises(UserError, match=said):
            load_projection(path, draft, target)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        load_projection(path, draft, target)


def test_what_cannot_be_trained_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"

    def refused(config_, prompts=PROMPTS):
        with pytest.raises(UserError) as error:
            train(config_, prompts, out, pair=PAIR, apart_from=())
        assert not list(tmp_path.iterdir())
        return error.value.message

    assert "not steered" in refused(config(folder, method="ssd-crs"))
    assert "long: " in refused(config(folder), PROMPTS | {"long": "word " * 60})
    huge = config(folder, "other", **{"steering.base": 1000.0, "steering.amplify": 1000.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "RATE", 1e30)
        assert "left the numbers" in refused(huge)
