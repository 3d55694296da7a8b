"""Exactness: are the forks of a speculative arm at temperature 0 explained by arithmetic?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import fisher_exact

from specsafe.screen.forks import THRESHOLD
from specsafe.screen.result import Contrast, Exactness, ExactnessResult
from specsafe.words import form, plural

FISHER_P = 0.01


def judge_exactness(
    contrasts: Mapping[str, Contrast],
    *,
    claims_lossless: bool,
    temperature: float | None,
    leak: Contrast | None = None,
) -> ExactnessResult:
    """contrasts: by role, "speculative" and where it ran "width". leak: the arm that was made to leak.

    The leak arm is the assay's own control: without its forks being called NOT EXACT nothing else is
    called EXACT or NUMERICS.
    """
    speculative, width = contrasts["speculative"], contrasts.get("width")
    verdict, reason, p = _judge(speculative, width, temperature)
    caught = None
    if leak is not None:
        caught = _judge(leak, width, temperature)[0] is Exactness.NOT_EXACT
        if not caught and verdict in (Exactness.EXACT, Exactness.NUMERICS):
            verdict, reason = Exactness.NOT_ASSESSED, "the leaking control was not caught"
    return ExactnessResult(
        verdict=verdict,
        reason=reason,
        threshold=THRESHOLD,
        p_more_than_width=p,
        claims_lossless=claims_lossless,
        leak_control_caught=caught,
        contrasts=dict(contrasts) | ({"leak": leak} if leak is not None else {}),
    )


def _judge(
    arm: Contrast, width: Contrast | None, temperature: float | None
) -> tuple[Exactness, str, float | None]:
    if temperature is None:
        reason = "the temperature of the recorded answers is not known: say temperature=0 if it was 0"
        return Exactness.NOT_ASSESSED, reason, None
    if temperature > 0:
        return Exactness.NOT_ASSESSED, "temperature above 0: answers differ by chance", None
    if arm.identical.n == 0:
        return Exactness.NOT_ASSESSED, "no answers to compare", None
    if arm.identical.k == arm.identical.n and not arm.forks:
        return (
            Exactness.EXACT,
            f"{arm.identical.k} of {plural(arm.identical.n, 'answer')} byte-identical",
            None,
        )
    repeated = [f for f in arm.forks if f.repeats and f.gap is not None and f.gap > THRESHOLD]
    if repeated:
        reason = f"{plural(len(repeated), 'fork')} with a gap above {THRESHOLD:g} nat came again on a rerun"
        return Exactness.NOT_EXACT, reason, None
    if width is not None and width.compared and arm.compared:
        p = _p_more(arm.large_gaps, arm, width.large_gaps, width)
        if p < FISHER_P:
            reason = (
                f"{arm.large_gaps} of {plural(arm.compared, 'item')} {form(arm.large_gaps, 'forks', 'fork')} with a gap above {THRESHOLD:g} nat, "
                f"width arm {width.large_gaps} of {width.compared}"
            )
            return Exactness.NOT_EXACT, reason, p
    return _numerics(arm, width)


def _numerics(arm: Contrast, width: Contrast | None) -> tuple[Exactness, str, float | None]:
    """NUMERICS needs token ids and gaps everywhere, and forks that look like those of the width arm."""
    if arm.compared < arm.identical.n:
        return Exactness.NOT_ASSESSED, "answers differ and the stack did not give token ids for all", None
    if arm.gap_known == 0:
        return (
            Exactness.NOT_ASSESSED,
            f"{plural(len(arm.forks), 'fork')} and no log-probabilities there",
            None,
        )
    if width is None or not width.compared:
        return (
            Exactness.NOT_ASSESSED,
            f"{plural(len(arm.forks), 'fork')} and no width arm to compare gaps with",
            None,
        )
    p = _p_more(arm.large_gaps, arm, width.large_gaps, width)
    if (
        arm.unknown_gaps
        and _p_more(arm.large_gaps + arm.unknown_gaps, arm, width.large_gaps, width) < FISHER_P
    ):
        reason = f"{plural(arm.unknown_gaps, 'fork has', 'forks have')} no usable log-probability, which decides it"
        return Exactness.NOT_ASSESSED, reason, p
    forks = f"{plural(len(arm.forks), 'fork')} of {arm.compared}, width arm {len(width.forks)} of {width.compared}"
    if _p_more(len(arm.forks), arm, len(width.forks), width) < FISHER_P:
        return (
            Exactness.NOT_ASSESSED,
            f"clearly more forks than the width arm, but none too large: {forks}",
            p,
        )
    return Exactness.NUMERICS, f"gaps like those of the width arm: {forks}", p


def _p_more(count: int, arm: Contrast, width_count: int, width: Contrast) -> float:
    """Fisher's one-sided p that the arm has more of something an item than the width arm."""
    table = np.array([[count, arm.compared - count], [width_count, width.compared - width_count]])
    return float(fisher_exact(table, alternative="greater").pvalue)
