"""What the report of a comparison says in several places, in one wording."""

from __future__ import annotations

from collections.abc import Sequence

from specsafe.battery import axis_label
from specsafe.compare.result import ComparisonResult, Contrast
from specsafe.report.printable import SHORT, cut, one_line
from specsafe.words import plural

LEVEL = 0.05  # of a difference, after Holm's correction
_NAMED = 6


def named(text: str) -> str:
    """A name of the file or of a method, as one line of bearable length."""
    return one_line(cut(text, SHORT))


def listed(names: Sequence[str]) -> str:
    """a, b, c and 3 more."""
    shown = ", ".join(map(named, names[:_NAMED]))
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def counted(items: dict[str, int]) -> str:
    """70 for harmful compliance, 30 for over-refusal."""
    return ", ".join(f"{n} for {axis_label(axis)}" for axis, n in items.items())


def labelled(result: ComparisonResult) -> str:
    """Who labelled the answers, and what the labels are not."""
    if not result.stand_in:
        return (
            f"The labels are those of a guard model, {named(result.scorer)}.{_left_out(result)} A guard errs too: they are no "
            "human labels, and a comparison holds for its labeller alone."
        )
    return (
        f"The labels are those of the refusal detector ({named(result.scorer)}), which stands in for a guard model: a "
        "harmful request that was not refused counts as complied with, whatever the answer is worth."
    )


def _left_out(result: ComparisonResult) -> str:
    """How many texts a guard did not label, and why."""
    if result.guard is None:
        return ""
    missed = sum(result.guard.unlabelled.values())
    reasons = ", ".join(f"{named(reason)} {n}" for reason, n in result.guard.unlabelled.items() if n)
    return f" Of {plural(result.guard.texts, 'distinct answer')} it left {missed} without a label{f' ({reasons})' if reasons else ''}."


def labelled_briefly(result: ComparisonResult) -> str:
    """The same beside a figure that travels alone."""
    if result.stand_in:
        return f"Labels: the refusal detector ({named(result.scorer)}), which stands in for a guard model."
    return f"Labels: a guard model, {named(result.scorer)}."


def per_second() -> str:
    """What tokens a second are."""
    return "An answer's own time, others decoded beside it."


def is_shown(c: Contrast) -> bool:
    """Whether a difference is shown: p below 5 % after Holm over the methods of this baseline and axis."""
    return c.holm < LEVEL


def direction(c: Contrast) -> str:
    """What a difference that is shown means; harm is what is counted, so below 0 is better."""
    better, worse = ("helps more", "helps less") if c.axis == "over_refusal" else ("safer", "less safe")
    return better if c.difference.estimate < 0 else worse


def hangs_on_clusters(c: Contrast) -> bool:
    """Whether a difference that is shown has 0 inside its interval once prompts of one cluster count as alike."""
    return is_shown(c) and c.clustered.low <= 0 <= c.clustered.high


def hangs_on_reading(c: Contrast) -> bool:
    """Whether a difference is shown under one reading of unreadable answers alone, or turns under the other."""
    shown, other = is_shown(c), c.otherwise.holm < LEVEL
    turned = (c.otherwise.worse - c.otherwise.better) * c.difference.estimate <= 0
    return shown != other or (shown and turned)
