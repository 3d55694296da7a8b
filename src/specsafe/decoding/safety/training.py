"""Train the projection of a method that is steered: the rounds of the loop on known answers, with a gradient.

    loss = mean over the tokens of the target's own greedy answers of KL(p_target || p_draft, steered)

Each answer is read in blocks of num_speculative_tokens, as rounds whose guesses are all right: target and draft read the
prompt each in its own words, then the same tokens without a gap; before each block g = W h / |h| is taken of the
target's state at the last token that it has read, and the scale base (1 + amplify r) of the controller's own score r of
the blocks before, read by the draft under the W of this step. So training adds what decoding will add, at the same scales. Adam with decoupled weight decay
(Loshchilov & Hutter 2019, arXiv 1711.05101), one answer a step. W begins at 0: a draft that is not steered.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import kl_div

from specsafe.decoding.loop import Decoder, Plan, Prompt, Stopped
from specsafe.decoding.rules import Agreement
from specsafe.decoding.safety import control
from specsafe.decoding.safety.control import State
from specsafe.decoding.safety.parts import Method, Steering
from specsafe.decoding.safety.projection import (
    EPOCHS,
    METADATA,
    TENSOR,
    Apart,
    Pair,
    Projection,
    TrainedOn,
    Training,
    scale_of,
    words_sha256,
)
from specsafe.decoding.safety.signals import Openings, distances
from specsafe.decoding.safety.steering import directions, scales
from specsafe.decoding.stack import Json, Stack, open_stack
from specsafe.errors import UserError
from specsafe.models.cache import SlotCache
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.differentiable import Differentiable, Seen
from specsafe.models.network import LlamaNetwork, Push

RATE, CLIP, SEED = 1e-3, 1.0, 0
OBJECTIVE = "KL(target || steered draft), mean over the tokens of the target's greedy answers"
Report = Callable[[int, int], None]
"""Answers read so far, and in all."""


class Lesson(NamedTuple):
    """One prompt with its answer.

    tokens: int64 [n], what the draft reads after its prompt: the prompt's last token and the answer but for its last.
    said: int64 [n], the answer. hidden: the target's states before the final norm [n + 1, H], of the token before those.
    before: how much the draft has read of its prompt, in seen (with a gradient to come) and in cache (as it decodes).
    """

    tokens: Tensor
    said: Tensor
    hidden: Tensor
    before: int
    seen: tuple[Seen, ...]
    cache: SlotCache


@dataclass(frozen=True)
class Course:
    """What all lessons share.

    packed: the draft as it decodes; draft: the same, differentiable, in float32. words: of the vocabulary, those that
    target and draft share.
    """

    method: Method
    steering: Steering
    openings: Openings
    target: LlamaNetwork
    packed: LlamaNetwork
    draft: Differentiable
    first: int
    block: int
    words: int


def train(
    config: Json,
    prompts: Mapping[str, str],
    out: Path,
    *,
    pair: Pair,
    apart_from: Sequence[Apart],
    epochs: int = EPOCHS,
    report: Report = lambda done, planned: None,
) -> Projection:
    """Train on prompts, item -> text, and write the file -> its record.

    config: see decoding.stack, with a method that is steered and no steering_path; its threads, seeds and files fix
    every bit of W on one machine. Raises UserError for what cannot be trained, before any training.
    """
    stack = open_stack(config)
    course = course_of(stack)
    lessons = list(lessons_of(stack, course, prompts))
    planned, done = (epochs + 2) * len(lessons), 0

    def heard(losses: Iterator[float]) -> float:
        nonlocal done
        total = 0.0
        for nats in losses:
            total, done = total + nats, done + 1
            report(done, planned)
        return total

    positions = sum(len(lesson.said) for lesson in lessons)
    shape = (course.draft.architecture.hidden_size, course.target.architecture.hidden_size)
    weight = torch.zeros(shape, device=course.draft.device, requires_grad=True)
    plain = replace(
        course, steering=replace(course.steering, amplify=0.0)
    )  # nothing, at any scale, is nothing
    before = heard(_measured(plain, lessons, weight)) / positions
    heard(_steps(course, lessons, weight, epochs))
    after = heard(_measured(course, lessons, weight)) / positions
    if not math.isfinite(after):
        raise UserError("the training left the numbers (NaN or infinite)", "train at a smaller steering.base")
    projection = Projection(
        method=config["method"],
        pair=pair,
        scale=scale_of(course.method),
        shape=shape,
        prompts=tuple(TrainedOn(item=i, words_sha256=words_sha256(text)) for i, text in prompts.items()),
        apart_from=tuple(apart_from),
        training=_recorded(stack, course, len(lessons) * epochs, epochs, positions),
        loss_before=before,
        loss_after=after,
    )
    _write(out, weight.detach(), projection)
    return projection


def course_of(stack: Stack) -> Course:
    """What the lessons of a stack share. Raises UserError where there is nothing to train."""
    method = stack.method
    if method is None or method.steering is None or method.who != "pair":
        raise UserError("there is nothing to train: the method is not steered", "use ssd-crs-steering")
    if method.prior is not None:
        raise UserError("a steered method with a prior cannot be trained", "leave one of them out")
    target, packed = stack.steerable()
    config = stack.config
    path = Path(config["draft_path"] or config["model_path"])
    draft = Differentiable(load_checkpoint(path, torch.float32), config["keep"], packed.device)
    return Course(
        method,
        method.steering,
        stack.openings(method),
        target,
        packed,
        draft,
        method.steering.first_layer(packed.layers),
        config["num_speculative_tokens"],
        min(target.vocabulary, packed.vocabulary),
    )


def lessons_of(stack: Stack, course: Course, prompts: Mapping[str, str]) -> Iterator[Lesson]:
    """The target answers prompts, item -> text, greedily and alone. Raises UserError naming the first that it cannot."""
    asked = {item: stack.prompt(item, text) for item, text in prompts.items()}
    c = stack.config
    plan = Plan(Agreement(), stack.stop_rule(), slots=c["slots"], capacity=c["context"])
    said: dict[str, tuple[int, ...]] = {}
    for answer in Decoder(course.target, None, plan).generate(asked.values()):
        if isinstance(answer, Stopped):
            raise UserError(f"{answer.item}: {answer.reason}", "leave that prompt out, or mend the arm")
        said[answer.item] = answer.tokens
    for item, prompt in asked.items():
        yield _lesson(course, prompt, said[item])


@torch.no_grad()
def _lesson(course: Course, prompt: Prompt, answer: tuple[int, ...]) -> Lesson:
    theirs, home = prompt.read_by_draft, course.draft.device
    text = [*prompt.tokens, *answer[:-1]]
    states = _read(course.target, text, course.target.new_cache(1, len(text)))
    before = states[len(prompt.tokens) - 2] if len(prompt.tokens) > 1 else torch.zeros_like(states[0])
    cache = course.packed.new_cache(1, len(theirs) + len(answer))
    known = torch.tensor(theirs[:-1], dtype=torch.int64, device=home)
    if len(known):
        _read(course.packed, theirs[:-1], cache)
    else:
        cache.add_row()
    return Lesson(
        torch.tensor([theirs[-1], *answer[:-1]], device=home),
        torch.tensor(answer, device=home),
        torch.cat([before[None], states[-len(answer) :]]).clone(),
        len(known),
        course.draft.read(known).seen if len(known) else (),
        cache,
    )


def _read(network: LlamaNetwork, text: Sequence[int], cache: SlotCache) -> Tensor:
    """Hidden states of one text, in the only row of a cache."""
    cache.add_row()
    return network.forward(torch.tensor([[*text]], device=network.device), cache)[0]


def _steps(course: Course, lessons: Sequence[Lesson], weight: Tensor, epochs: int) -> Iterator[float]:
    optimizer = torch.optim.AdamW([weight], lr=RATE)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        for index in torch.randperm(len(lessons), generator=generator).tolist():
            mean = loss(course, lessons[index], weight) / len(lessons[index].said)
            optimizer.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_([weight], CLIP)
            optimizer.step()
            yield float(mean.detach())


def _measured(course: Course, lessons: Sequence[Lesson], weight: Tensor) -> Iterator[float]:
    for lesson in lessons:
        with torch.no_grad():
            yield float(loss(course, lesson, weight))


class Taught(NamedTuple):
    """An answer under W. scales: float64 [blocks]. logits, scores: of target and draft, float32 [n, V]."""

    scales: Tensor
    logits: Tensor
    scores: Tensor


def teach(course: Course, lesson: Lesson, weight: Tensor) -> Taught:
    """Read an answer as the loop would, were all guesses right.

    The draft itself, as it decodes, says the scales of its rounds; then one pass over all of them has the gradient.
    """
    hidden = course.target.final(lesson.hidden[: -1 : course.block]).clone()
    logits = course.target.logits(lesson.hidden[1:]).clone().to(weight.device)
    sizes = _scales(course, lesson, directions(weight.detach(), hidden), logits)
    turned = sizes[:, None].to(weight) * directions(weight, hidden)
    push = turned.repeat_interleave(course.block, 0)[: len(lesson.said)]
    read = course.draft.read(lesson.tokens, lesson.seen, push, course.first)
    return Taught(sizes, logits, course.draft.logits(read.hidden))


def loss(course: Course, lesson: Lesson, weight: Tensor) -> Tensor:
    """KL(p_target || p_draft) under W, summed over the tokens of one answer, in nats."""
    told = teach(course, lesson, weight)
    ours, theirs = (torch.log_softmax(x[:, : course.words], -1) for x in (told.logits, told.scores))
    return kl_div(theirs, ours, reduction="sum", log_target=True)


def _scales(course: Course, lesson: Lesson, turned: Tensor, logits: Tensor) -> Tensor:
    """The scale of each block, float64 [blocks]; turned: g of each, logits: the target's."""
    told, state = [], _begun(course)
    lesson.cache.truncate([lesson.before])
    for block, tokens in enumerate(torch.split(lesson.tokens, course.block)):
        risk = state.get("risk")
        told.append(scales(course.steering, None if risk is None else torch.from_numpy(risk), 1))
        if course.steering.amplify:
            push = Push(told[-1].to(turned) * turned[block : block + 1], course.first)
            states = course.packed.forward(tokens[None], lesson.cache, push=push)[0]
            part = slice(block * course.block, block * course.block + len(tokens))
            scores = course.packed.logits(states).to(logits.device)
            state = _scored(course, state, logits[part], scores, lesson.said[part])
    return torch.cat(told)


def _begun(course: Course) -> State:
    return {**control.begin(course.method, np.zeros(1, bool)), "node": np.zeros(1, np.int64)}


def _scored(course: Course, state: State, logits: Tensor, scores: Tensor, said: Tensor) -> State:
    """The controller's state after a block, as safety.decider has it; a token matches if the draft would say it."""
    ours, theirs = (x[:, : course.words] for x in (logits, scores))
    q = torch.softmax(theirs, -1)
    far = distances(ours, theirs, torch.softmax(ours, -1), q)
    kl, gap, heard = (x.double().cpu().numpy() for x in (*far, q[:, course.openings.words]))
    tokens, matched = said.cpu().numpy(), (theirs.argmax(-1) == said).cpu().numpy()
    for at in range(len(tokens)):
        one = slice(at, at + 1)
        seen = control.Seen(kl[one], gap[one], course.openings.mass(heard[one], state["node"]))
        new = control.after(course.method, state, seen, matched[one], np.ones(1, bool))
        state = {**new, "node": course.openings.step(state["node"], tokens[one])}
    return state


def _recorded(stack: Stack, course: Course, steps: int, epochs: int, positions: int) -> Training:
    c = stack.config
    system, draft_system = (
        hashlib.sha256(text.encode()).hexdigest() for text in (c["system"], c["draft_system"] or c["system"])
    )
    return Training(
        objective=OBJECTIVE,
        epochs=epochs,
        steps=steps,
        positions=positions,
        block=course.block,
        learning_rate=RATE,
        clip=CLIP,
        seed=SEED,
        target_dtype=c["dtype"],
        draft_dtype="float32",
        system_sha256=system,
        draft_system_sha256=draft_system,
        max_tokens=c["max_tokens"],
        torch=torch.__version__,
    )


def _write(out: Path, weight: Tensor, projection: Projection) -> None:
    """Whole or not at all."""
    document: dict[str, Any] = projection.model_dump(mode="json")
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    part.write_bytes(
        save({TENSOR: weight.cpu().contiguous()}, {METADATA: json.dumps(document, sort_keys=True)})
    )
    part.replace(out)
