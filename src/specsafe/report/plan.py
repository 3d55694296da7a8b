"""What `--plan` prints: counts, and which verdicts can be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specsafe.battery import axis_label
from specsafe.screen.plan import Reach


def plan_lines(counts: Mapping[str, int], reach: Sequence[Reach], margin: float) -> list[str]:
    """Lines for the terminal."""
    answers = ", ".join(f"{role} {n}" for role, n in counts.items())
    lines = [
        f"answers to make: {answers}; {sum(counts.values())} in all",
        f"margin {100 * margin:g} points; with these items:",
    ]
    for r in reach:
        passing = f"PASS with at most {r.most_passing} net flips" if r.can_pass else "PASS cannot be reached"
        failing = (
            f"FAIL from {r.smallest_caught}" if r.smallest_caught is not None else "FAIL cannot be reached"
        )
        needed = ", ".join(f"{d}: {n}" for d, n in r.items_needed.items())
        lines.append(
            f"  {axis_label(r.axis)}: {r.items} items; {passing}, {failing}; UNMEASURED with fewer than {r.smallest_caught} at risk"
        )
        lines.append(f"    items needed for PASS (power .8) at a discordance of {needed}")
    if not all(r.can_pass for r in reach):
        lines.append("this screen cannot PASS: take more items")
    return lines
