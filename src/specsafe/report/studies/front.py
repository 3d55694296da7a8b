"""What is read first of a study: its hypotheses, what was planned and done, and what must be known before reading on."""

from __future__ import annotations

from collections import Counter

from specsafe.analysis.result import Hypothesis, Standing, StudyResult
from specsafe.report.blocks import Card, Front, Tone
from specsafe.report.numbers import thousands
from specsafe.report.studies.words import TONES, in_words, named, planned
from specsafe.words import plural


def front(result: StudyResult) -> Front:
    """The first hypothesis that is judged is the largest word: it is what a study of safety is run for."""
    first = result.first
    wanted, there, failed = planned(result)
    return Front(
        kicker=f"Does speculative decoding change how safe the answers are? · study {named(result.name)}",
        verdict=f"{first.name} {first.standing}",
        tone=TONES[first.standing],
        bound=named(first.reason),
        lead=_lead(result),
        answers=(
            ("What was planned", f"{plural(wanted, 'answer')} in {plural(len(result.cells), 'cell')}"),
            (
                "What is there",
                f"{plural(there, 'answer')}, {thousands(failed)} failed for good, {thousands(wanted - there - failed)} missing",
            ),
            (
                "What n is",
                f"unique items, {thousands(result.items)} in all; several samples an item are one item",
            ),
            (
                "The margin",
                f"{plural(100 * result.margin, 'point')} of harm, one-sided level {100 * result.alpha:g} %",
            ),
        ),
        loud=tuple(_loud(result)),
        flags=tuple(flags(result)),
        cards=tuple(_card(h) for h in result.hypotheses),
        headline=headline(result),
    )


def headline(result: StudyResult) -> str:
    """The study in one line."""
    stands = ", ".join(f"{h.name} {h.standing}" for h in result.hypotheses)
    wanted, there, _ = planned(result)
    return (
        f"study {named(result.name)}: {stands}; {thousands(there)} of {plural(wanted, 'answer')}, "
        f"{plural(result.items, 'item')}, specsafe {named(result.version)}"
    )


def _lead(result: StudyResult) -> str:
    verdicts = Counter(g.verdict for c in result.gates for g in c.gates)
    if not verdicts:
        return "No cell with a matched target can be judged yet: what was answered is shown."
    told = ", ".join(f"{n} {v}" for v, n in sorted(verdicts.items()))
    differing = sum(not p.same for p in result.published)
    return (
        f"By the rule of a screen, of {plural(sum(verdicts.values()), 'gate')} (a cell on an axis): {told}. "
        f"Of {plural(len(result.published), 'statement')} that the publication's methods would have made of these rows, "
        f"{plural(differing, 'differs', 'differ')} from ours, and {sum(p.invalid for p in result.published)} cannot be right whatever the rows are."
    )


def _card(h: Hypothesis) -> Card:
    return Card(
        title=f"{h.name}: {h.text}",
        verdict=str(h.standing),
        tone=_tone(h),
        bound=named(h.reason),
        lines=(f"passes {', '.join(map(str, h.passes)) or 'none'}.{in_words(h)}",),
    )


def _tone(h: Hypothesis) -> Tone:
    """H0 and H1 are what one hopes for; H2 to H4 are harms, so their colour is turned round."""
    if h.name in ("H0", "H1"):
        return TONES[h.standing]
    harms: dict[Standing, Tone] = {Standing.SUPPORTED: "bad", Standing.NOT_TESTABLE: "open"}
    return harms.get(h.standing, "plain")


def _loud(result: StudyResult) -> list[str]:
    found = []
    if result.verification:
        found.append(
            f"The ledger is not what was written: {plural(len(result.verification), 'row or table does', 'rows or tables do')} not match."
        )
    if not result.complete:
        found.append("The study is not complete: numbers stand on what is answered so far.")
    return found


def flags(result: StudyResult) -> list[str]:
    """What must be known before the numbers are read."""
    found = []
    if result.lock is None:
        found.append("The protocol was not locked before the run.")
    if result.deviations:
        found.append(f"{plural(len(result.deviations), 'deviation')} from the locked protocol, listed below.")
    if not result.checked:
        found.append("The rows were not held against their hashes for this report.")
    shown = sum(c.shown_only for c in result.cells)
    if shown:
        found.append(
            f"{plural(shown, 'cell has no matched target: it is', 'cells have no matched target: they are')} shown and not judged."
        )
    replays = sum(c.replays for c in result.cells)
    if replays:
        found.append(
            f"{plural(replays, 'answer is a replay', 'answers are replays')} at temperature 0, not counted as data."
        )
    return found
