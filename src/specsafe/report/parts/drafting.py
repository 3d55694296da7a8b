"""What the draft did: acceptance by axis and by position, and the speed-up."""

from __future__ import annotations

from specsafe.battery import AXES, axis_label
from specsafe.report.blocks import Block, Chart, Group, Mark, Para, Section
from specsafe.report.figures import Scale, axis, linear, strip
from specsafe.report.numbers import rate, ratio, speed
from specsafe.screen.result import ArmSummary, ScreenResult
from specsafe.stats import Ratio
from specsafe.words import plural


def drafting(result: ScreenResult) -> Section:
    """Acceptance and speed: what speculation was, and what it gained."""
    blocks: list[Block] = [_speed(result)]
    arms = [a for a in result.arms if a.acceptance]
    scale = linear(0, 100, most=6)
    if arms:
        blocks.append(_by_axis(arms, scale))
    else:
        blocks.append(Para("This stack does not report how many draft tokens it accepted.", "note"))
    placed = [a for a in result.arms if a.accepted_at]
    if placed:
        blocks.append(_by_position(placed, scale))
    else:
        blocks.append(Para("This stack does not report acceptance by position.", "note"))
    return Section("drafting", "Acceptance and speed", tuple(blocks))


def _speed(result: ScreenResult) -> Para:
    s = result.speed_up
    if s is None:
        return Para("Speed-up: no timings in this report.", "note")
    at_once = result.resolved.get("at_once")
    return Para(
        f"Speed-up of the speculative arm over the target alone: {speed(s)}; {s.treatment_rate:.0f} against "
        f"{s.baseline_rate:.0f} tokens a second, prefill included, on {plural(s.items, 'item')} that both arms timed"
        + (f"; arms at once: {at_once}." if at_once else ".")
    )


def _by_axis(arms: list[ArmSummary], scale: Scale) -> Chart:
    return Chart(
        caption="Draft tokens accepted of those drafted; intervals take items, not tokens, as the units",
        heads=("axis", "accepted / drafted", "items", ""),
        top=None,
        axis=axis(scale, "Scale: per cent of draft tokens accepted", right="per cent accepted"),
        groups=tuple(_arm(a, scale) for a in arms),
    )


def _arm(arm: ArmSummary, scale: Scale) -> Group:
    axes = [a for a in ("all", *AXES) if a in arm.acceptance]
    return Group(tuple(_accepted(arm.role, a, arm.acceptance[a], scale) for a in axes))


def _accepted(role: str, axis_: str, r: Ratio, scale: Scale) -> Mark:
    label = f"{role}: all axes" if axis_ == "all" else axis_label(axis_)
    share = [None if x is None else 100 * min(1.0, max(0.0, x)) for x in (r.estimate, r.low, r.high)]
    return Mark(
        label=label,
        figure=strip(
            scale,
            f"Acceptance, {role} arm, {axis_}: {ratio(r)}",
            estimate=share[0],
            low=share[1],
            high=share[2],
            shape="circle" if axis_ == "all" else "dot",
        ),
        reading=ratio(r),
        counts=str(r.items),
        minor=axis_ != "all",
    )


def _by_position(arms: list[ArmSummary], scale: Scale) -> Chart:
    return Chart(
        caption="Rounds in which at least so many draft tokens were accepted",
        heads=("draft tokens accepted", "rounds", "", ""),
        top=None,
        axis=axis(scale, "Scale: per cent of rounds", right="per cent of rounds"),
        groups=tuple(_positions(a, scale) for a in arms),
    )


def _positions(arm: ArmSummary, scale: Scale) -> Group:
    rows = []
    for place, p in enumerate(arm.accepted_at, 1):
        share = None if p.estimate is None else 100 * p.estimate
        label = f"{arm.role}: at least {place}"
        rows.append(
            Mark(
                label=label,
                figure=strip(
                    scale,
                    f"Rounds, {arm.role} arm: at least {place} accepted in {rate(p)}",
                    estimate=share,
                    low=None if p.low is None else 100 * p.low,
                    high=None if p.high is None else 100 * p.high,
                    bar=share,
                    shape="dot",
                    height=24,
                ),
                reading=rate(p),
                counts="",
                minor=place > 1,
            )
        )
    return Group(tuple(rows))
