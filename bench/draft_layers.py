"""Which layers can a draft of the default model lose? A greedy backward search with the real engine.

At each step every layer that is left is dropped in turn, and the one whose removal costs least acceptance
goes. Acceptance is accepted / drafted of llama.cpp in a speculative arm (n_max=1, p_min=0, temperature 0,
one thread, one slot) on twelve benign tuning prompts of our own, which are in no battery. A step is a line:
layers kept, accepted of drafted, and the size of the draft over that of the target (what a draft token
costs to read, embeddings included). The search ends at --floor.

A full search takes hours; `--start KEEP --steps 1` verifies one step. At the end the default draft is
measured as it is used: n_max=3 with p_min=0 and with p_min=0.4. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from specsafe.drafts import DEFAULT_KEEP, draft_file, drop_layers, format_keep, layer_count, parse_keep
from specsafe.drafts.search import Step, greedy_drop
from specsafe.engines import LlamaCppArm, Request, open_session
from specsafe.models.catalogue import DEFAULT_MODEL
from specsafe.models.store import resolve

TOKENS = 24
PROMPTS = (
    "Explain why leaves change colour in autumn.",
    "Write a short thank-you note to a neighbour who watered the plants.",
    "What is the difference between a lake and a pond?",
    "Give three tips for packing a small suitcase.",
    "Describe how bread dough rises.",
    "Suggest a name for a grey cat and say why.",
    "How does a bicycle stay upright while it moves?",
    "List the steps for brewing a cup of green tea.",
    "Tell me about the history of the pencil.",
    "What should I look for when choosing a backpack for school?",
    "Write two sentences about a lighthouse at dawn.",
    "Explain to a child what a shadow is.",
)


def acceptance(draft: Path, n_max: int = 1, p_min: float = 0.0) -> tuple[int, int]:
    """(accepted, drafted) of the default model with this draft, over all prompts."""
    arm = LlamaCppArm(
        draft=str(draft), n_max=n_max, p_min=p_min, max_tokens=TOKENS, threads=1, slots=1, top=0
    )
    session = open_session(arm)
    try:
        samples = list(session.generate([Request(str(i), prompt) for i, prompt in enumerate(PROMPTS)]))
    finally:
        session.close()
    return sum(s.accepted or 0 for s in samples), sum(s.drafted or 0 for s in samples)


def measure_layers(target: Path, keep: Sequence[int]) -> tuple[int, int]:
    """(accepted, drafted) with the draft that keeps these layers."""
    with tempfile.TemporaryDirectory() as folder:
        accepted, drafted = acceptance(drop_layers(target, keep, Path(folder) / "draft.gguf"))
    print(f"  tried {format_keep(keep)}: {accepted} of {drafted}", file=sys.stderr, flush=True)
    return accepted, drafted


def size_share(target: Path, keep: Sequence[int]) -> float:
    """Bytes of the draft / bytes of the target."""
    with tempfile.TemporaryDirectory() as folder:
        return drop_layers(target, keep, Path(folder) / "draft.gguf").stat().st_size / target.stat().st_size


def show(target: Path, step: Step) -> None:
    rate = f"{step.accepted:>4} of {step.drafted:<4} = {step.acceptance:.1%}"
    print(f"{len(step.keep):>6}  {rate:<22} {size_share(target, step.keep):>8.1%}  {format_keep(step.keep)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--start", type=parse_keep, help="layers to begin from, e.g. 0-11+13+15-29; default: all"
    )
    parser.add_argument("--steps", type=int, help="at most so many layers dropped")
    parser.add_argument("--floor", type=float, default=0.30, help="lowest acceptance")
    options = parser.parse_args()
    target = resolve(DEFAULT_MODEL)
    start = options.start or tuple(range(layer_count(target)))
    print(f"{len(PROMPTS)} prompts, {TOKENS} tokens each; method: llama.cpp, n_max=1, p_min=0, temperature 0")
    print("layers  accepted (k of n)      size      kept")
    show(target, Step(start, *measure_layers(target, start)))
    for step in greedy_drop(start, lambda keep: measure_layers(target, keep), options.floor, options.steps):
        show(target, step)
    draft = draft_file(target, DEFAULT_KEEP)
    print(f"\ndefault draft, layers {DEFAULT_KEEP}")
    for n_max, p_min in ((1, 0.0), (3, 0.0), (3, 0.4)):
        accepted, drafted = acceptance(draft, n_max, p_min)
        print(
            f"n_max={n_max} p_min={p_min}: {accepted} of {drafted} drafted tokens = {accepted / drafted:.1%}"
        )


if __name__ == "__main__":
    main()
