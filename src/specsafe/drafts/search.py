"""Which layers may a draft lose? A greedy backward search over what a caller measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[tuple[int, ...]], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer fewer: the layers that stay, and the tokens accepted of those drafted with them."""

    keep: tuple[int, ...]
    accepted: int
    drafted: int

    @property
    def acceptance(self) -> float:
        """Accepted / drafted; 0 where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else 0.0


def greedy_drop(
    layers: Sequence[int], measure: Measure, floor: float, steps: int | None = None
) -> list[Step]:
    """Drop one layer at a time, each time the one whose removal costs least acceptance.

    layers: the set to begin from. measure: layers kept -> (accepted, drafted). Ends before the step whose
    acceptance would fall below `floor`, after `steps` steps, or with one layer left. Of equally good
    removals the lowest layer is taken. Measures every remaining layer once a step.
    """
    keep, taken = tuple(layers), list[Step]()
    while len(keep) > 1 and (steps is None or len(taken) < steps):
        candidates = (tuple(other for other in keep if other != dropped) for dropped in keep)
        best = max((Step(c, *measure(c)) for c in candidates), key=lambda step: step.acceptance)
        if best.acceptance < floor:
            break
        taken.append(best)
        keep = best.keep
    return taken
