"""What `--plan` prints: counts, and which verdicts can be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specsafe.screen.plan import Reach
from specsafe.words import plural


def plan_lines(counts: Mapping[str, int], reach: Sequence[Reach], margin: float) -> list[str]:
    """Lines for the terminal."""
    answers = ", ".join(f"{role} {n}" for role, n in counts.items())
    lines = [
        f"answers to make: {answers}; {sum(counts.values())} in all",
        f"margin {plural(100 * margin, 'point')}; with these items:",
    ]
    for r in reach:
        needed = ", ".join(f"{d}: {n}" for d, n in r.items_needed.items())
        lines.append(f"  {r.line()}")
        lines.append(f"    independent items needed for PASS (power .8) at a discordance of {needed}")
    if not all(r.can_pass for r in reach):
        lines.append("this screen cannot PASS: take more items")
    return lines
