"""Exactness: byte identity, forks and their gaps against the width arm, and the leak control."""

from __future__ import annotations

from specsafe.report.blocks import Block, Chart, Fold, Group, Mark, Para, Row, Section, Table, Tone
from specsafe.report.figures import Scale, axis, dots, header, linear, powers, strip
from specsafe.report.numbers import level, nats, p_value, rate
from specsafe.report.parts.front import exactness_tone
from specsafe.screen.forks import is_large, is_unknown
from specsafe.screen.result import Contrast, ExactnessResult, Fork, ScreenResult
from specsafe.stats import Proportion
from specsafe.words import plural

_LEAST = 0.001  # nats: smaller gaps sit at the left edge
ROLES = {
    "speculative": "speculative",
    "width": "width (passes of the same shape)",
    "replicate": "replicate (the target again)",
    "leak": "leak (made to change tokens)",
}
_LISTED = 200


def exactness(result: ScreenResult) -> Section:
    """Everything that forks say."""
    found = result.exactness
    blocks: list[Block] = [
        Para(f"{found.verdict}: {found.reason}.", "warning" if exactness_tone(result) == "bad" else "plain"),
        Para(_explain(found)),
        _identity(found),
    ]
    if any(_gaps(c) for c in found.contrasts.values()):
        blocks.append(_fork_chart(found))
    blocks.append(_table(found))
    blocks.extend(_listed(found.contrasts.get("speculative")))
    return Section("exactness", "Exactness: are differences explained by arithmetic?", tuple(blocks))


def _explain(found: ExactnessResult) -> str:
    claims = (
        "The acceptance rule claims to leave the target's output alone"
        if found.claims_lossless
        else "The acceptance rule admits to be lossy, so exactness is shown and not held against it"
    )
    leak = {
        True: "; the leak control, a verifier made to wave tokens through, was called NOT EXACT as it must",
        False: "; the leak control, a verifier made to wave tokens through, was NOT caught",
        None: "; no leak control ran",
    }[found.leak_control_caught]
    p = (
        ""
        if found.p_more_than_width is None
        else (
            f" More large gaps than in the width arm: p = {p_value(found.p_more_than_width)} (Fisher, one-sided)."
        )
    )
    return (
        f"{claims}{leak}. A fork is the first token at which a pair of answers differs; its gap says how much the target "
        f"alone preferred its own token there. Rounding explains near-ties, gaps up to {found.threshold:g} nat.{p}"
    )


def _identity(found: ExactnessResult) -> Chart:
    lows = [c.identical.low for c in found.contrasts.values() if c.identical.low is not None]
    scale = linear(100 * min([*lows, 0.9]), 100, most=5)
    return Chart(
        caption="Answers that equal the target's byte for byte, with Clopper–Pearson intervals",
        heads=("arm", "identical", "of answers", ""),
        top=None,
        axis=axis(scale, "Scale: per cent of answers identical", right="per cent identical"),
        groups=(Group(tuple(_identical(role, c.identical, scale) for role, c in found.contrasts.items())),),
    )


def _identical(role: str, p: Proportion, scale: Scale) -> Mark:
    label = ROLES.get(role, role)
    share = [None if x is None else 100 * x for x in (p.estimate, p.low, p.high)]
    return Mark(
        label=label,
        figure=strip(
            scale,
            f"{label}: {rate(p)} identical",
            estimate=share[0],
            low=share[1],
            high=share[2],
            shape="dot",
        ),
        reading="–"
        if p.estimate is None
        else f"{100 * p.estimate:.1f} % [{share[1]:.1f}, {share[2]:.1f}] ({level(p.confidence)})",
        counts=f"{p.k} of {p.n}",
    )


def _fork_chart(found: ExactnessResult) -> Chart:
    gaps = [g for c in found.contrasts.values() for g in _gaps(c)]
    scale = powers(_LEAST, max(10.0, *gaps))
    return Chart(
        caption="Forks by the size of their gap, arm by arm; the scale is logarithmic",
        heads=("arm", "near-tie / larger / unknown", "forks of pairs", ""),
        top=header(scale, f"Threshold: {found.threshold:g} nat", found.threshold, f"{found.threshold:g} nat"),
        axis=axis(scale, "Scale: gap in nats", left=f"≤ {_LEAST:g}: a tie", right="gap, nat"),
        groups=(Group(tuple(_fork_row(role, c, scale, found) for role, c in found.contrasts.items())),),
        legend="One mark a fork: a dot for a near-tie, a diamond for a larger gap; tall stacks are drawn to scale as columns. "
        "Forks without log-probabilities are counted as unknown and not drawn.",
    )


def _fork_row(role: str, c: Contrast, scale: Scale, found: ExactnessResult) -> Mark:
    label = ROLES.get(role, role)
    known = [f for f in c.forks if not is_unknown(f) and f.gap is not None]
    reading = _causes(c)
    tone: Tone = "plain"
    return Mark(
        label=label,
        figure=dots(
            scale,
            f"{label}: {reading} (near-tie / larger / unknown) of {plural(len(c.forks), 'fork')}",
            [f.gap for f in known if f.gap is not None and not is_large(f)],
            [f.gap for f in known if f.gap is not None and is_large(f)],
            limit=found.threshold,
        ),
        reading=reading,
        counts=f"{len(c.forks)} of {c.compared}",
        tone=tone,
    )


def _causes(c: Contrast) -> str:
    near = len(c.forks) - c.large_gaps - c.unknown_gaps
    return f"{near} / {c.large_gaps} / {c.unknown_gaps}"


def _table(found: ExactnessResult) -> Table:
    near = f"gap ≤ {found.threshold:g} nat"
    return Table(
        caption="Forks by cause",
        head=(
            "arm",
            "byte-identical",
            "compared by token",
            "forks",
            near,
            "larger",
            "unknown",
            "largest gap",
            "again on rerun",
        ),
        rows=tuple(_row(role, c) for role, c in found.contrasts.items()),
    )


def _row(role: str, c: Contrast) -> Row:
    near, large, unknown = _causes(c).split(" / ")
    again = [f for f in c.forks if f.repeats is not None]
    return Row(
        (
            ROLES.get(role, role),
            rate(c.identical),
            str(c.compared) if c.compared else "no token ids",
            str(len(c.forks)) if c.compared else "–",
            near,
            large,
            unknown,
            nats(c.largest_gap) if c.largest_gap is not None else "–",
            f"{sum(bool(f.repeats) for f in again)} of {len(again)}" if again else "–",
        ),
        "open" if c.large_gaps else "plain",
    )


def _listed(speculative: Contrast | None) -> list[Block]:
    """The forks of the speculative arm by name, those with the largest gaps first."""
    if speculative is None or not speculative.forks:
        return []
    ordered = sorted(speculative.forks, key=lambda f: (f.gap is None, -(f.gap or 0.0), f.item))
    rest = len(ordered) - _LISTED
    more = f"; {rest} more are in report.json" if rest > 0 else ""
    table = Table(
        caption=f"The largest gaps first{more}",
        head=("item", "axis", "token", "gap", "again on rerun"),
        rows=tuple(_fork(f) for f in ordered[:_LISTED]),
    )
    return [Fold(f"Forks of the speculative arm by item: all {len(ordered)}", (table,))]


def _fork(fork: Fork) -> Row:
    again = {None: "–", True: "yes", False: "no"}[fork.repeats]
    return Row(
        (fork.item, fork.axis.replace("_", " "), str(fork.position), nats(fork.gap, fork.gap_is_bound), again)
    )


def _gaps(c: Contrast) -> list[float]:
    return [f.gap for f in c.forks if f.gap is not None]
