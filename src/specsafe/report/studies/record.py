"""What was planned and done, what deviates, and whether the ledger is intact; gates; what the publication would say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from specsafe.analysis.result import CellSummary, Published, StudyResult
from specsafe.battery import axis_label
from specsafe.report.blocks import Block, Facts, Fold, Para, Row, Section, Table, Tone, Verbatim
from specsafe.report.numbers import count, difference, p_value, points, rate, thousands
from specsafe.report.studies.figures import progress
from specsafe.report.studies.tables import SHOWN
from specsafe.report.studies.words import between, method, named, of, planned, value
from specsafe.words import plural


def counts(result: StudyResult) -> Section:
    """Planned against actual, which closes to the unit, cell by cell."""
    cells = Table(
        caption="Every cell: planned, answered, failed, missing",
        head=("cell", "part", "arm", "items", "planned", "answered", "failed", "missing", "unscored", "cut off", "replays", "matched with"),
        rows=tuple(_cell(c) for c in result.cells),
    )  # fmt: skip
    wanted, there, failed = planned(result)
    total = (
        f"{thousands(wanted)} planned = {thousands(there)} answered + {thousands(failed)} failed + "
        f"{thousands(wanted - there - failed)} missing. Cells that share an arm share its answers: "
        f"{plural(result.unique_answers, 'was', 'were')} made."
    )
    return Section(
        "counts",
        "Planned against actual",
        (Para(total), progress(result), Fold(plural(len(result.cells), "cell"), (cells,))),
    )


def _cell(c: CellSummary) -> Row:
    numbers = (c.items, c.planned, c.answered, c.failed, c.missing, c.unscored, c.truncated, c.replays)
    matched = c.baseline or ("shown, not judged" if c.shown_only else "–")
    kind: Tone = "open" if c.missing or c.failed or c.shown_only else "plain"
    return Row((named(c.key), c.part, named(c.arm), *map(thousands, numbers), named(matched)), kind)


def integrity(result: StudyResult) -> Section:
    """Lock, deviations, verification: in every report, also where there is nothing to tell."""
    lock = result.lock
    locked = (
        f"{named(str(lock.get('sha256', '')))}, {named(str(lock.get('at', '')))} UTC"
        if lock
        else "never locked"
    )
    state = "not held against their hashes" if not result.checked else "all rows are what was written"
    if result.verification:
        state = plural(len(result.verification), "problem")
    blocks: list[Block] = [
        Facts(
            (
                ("Protocol", named(f"{result.name} {result.variant}: {result.title}")),
                ("Study", result.study),
                ("Battery", result.battery_sha256),
                ("Lock", locked),
                ("Deviations", str(len(result.deviations)) if result.deviations else "none"),
                ("Verification", state),
                ("Scorers", ", ".join(map(named, result.scorers)) or "none"),
            )
        )
    ]
    for title, lines in (
        ("Deviations from the lock", result.deviations),
        ("What does not match its hash", result.verification),
    ):
        if lines:
            blocks.append(
                Table(
                    caption=title,
                    head=("what was found",),
                    rows=tuple(Row((named(x),), "open") for x in lines),
                    numbers=False,
                )
            )
    return Section("integrity", "Lock, deviations and verification", tuple(blocks))


def gates(result: StudyResult) -> Section:
    """The rule of a screen on every cell and axis."""
    rows = tuple(
        Row(
            (
                named(c.cell),
                axis_label(g.axis),
                str(g.verdict),
                difference(g.decision.difference, 2),
                points(g.decision.bound, 2),
                f"{g.decision.worse}/{g.decision.better} of {g.decision.pairs}",
                rate(g.baseline_harm),
                f"{p_value(g.decision.p_pass)} / {p_value(g.decision.p_fail)}",
                count(g.decision.clusters),
                "; ".join(map(named, g.reasons)) or "–",
            ),
            {"FAIL": "bad", "PASS": "plain"}.get(str(g.verdict), "open"),  # type: ignore[arg-type]
        )
        for c in result.gates
        for g in c.gates
    )
    lead = (
        "Each cell with a matched target, by the very rule of a screen: the bound in the direction of harm, Tango and the exact "
        "test, the target against itself, controls, missing answers at their worst. Dose series are looked at as series."
    )
    if not rows:
        return Section("gates", "Gates", (Para(lead), Para("No cell can be judged.", "note")))
    head = (
        "cell",
        "axis",
        "verdict",
        "points worse",
        "bound",
        "worse/better of n",
        "target's harm",
        "p pass / fail",
        "clusters",
        "reasons",
    )
    table = Table(caption=plural(len(rows), "gate"), head=head, rows=rows, numbers=False)
    return Section(
        "gates", "Gates", (Para(lead), table if len(rows) <= SHOWN else Fold(table.caption, (table,)))
    )


def published(result: StudyResult) -> Section:
    """Side by side, those that differ first, the others on demand."""
    lead = (
        "What TR144 would have said of these very rows, recomputed with its formulas, beside what we say. An invalid statement "
        "cannot be right whatever the rows are. Their differences are of safety, so their sign is turned round against ours in "
        "other tables; here both point the same way."
    )
    differing = [p for p in result.published if not p.same or p.invalid]
    agreeing = [p for p in result.published if p.same and not p.invalid]
    tally = Counter(p.about.partition(",")[0] for p in differing)
    blocks: list[Block] = [Para(lead)]
    if differing:
        blocks.append(
            Table(
                caption="Where they differ, by statement",
                head=("statement", "differ", "of", "cannot be right"),
                rows=tuple(
                    Row(
                        (
                            named(name),
                            str(n),
                            str(sum(p.about.partition(",")[0] == name for p in result.published)),
                            str(sum(p.invalid for p in differing if p.about.partition(",")[0] == name)),
                        )
                    )
                    for name, n in tally.items()
                ),
            )
        )
    for words, chosen in (
        (("statement differs", "statements differ"), differing),
        (("statement agrees", "statements agree"), agreeing),
    ):
        if chosen:
            blocks.append(Fold(plural(len(chosen), *words), (_side_by_side(chosen),)))
    return Section("published", "As published, and as it is", tuple(blocks))


def _side_by_side(chosen: Sequence[Published]) -> Table:
    return Table(
        caption="Theirs and ours",
        head=("statement", "of", "on", "theirs", "they say", "ours", "we say", "why"),
        rows=tuple(
            Row(
                (
                    named(p.about),
                    named(p.cell) or "all",
                    named(f"{axis_label(p.axis)} {p.task}".strip()) or "all",
                    _number(p, ours=False),
                    named(p.their_reading),
                    _number(p, ours=True),
                    named(p.our_reading),
                    f"{'cannot be right: ' if p.invalid else ''}{p.why}" or "–",
                ),
                "bad" if p.invalid else "open" if not p.same else "plain",
            )
            for p in chosen
        ),
        numbers=False,
    )


def _number(p: Published, *, ours: bool) -> str:
    e = p.ours if ours else p.theirs
    return "–" if e is None else f"{value(e)} {between(e)}, {of(e)}; {method(e)}"


def reading(result: StudyResult) -> Section:
    """How to read a study."""
    facts = (
        ("Harm", "what the axis counts: a harmful request complied with, a harmless one refused, a wrong or biased answer."),
        ("Difference", "share of items that got worse under speculation less the share that got better, on the same items."),
        ("n", "unique items. Items of one behaviour share a cluster; answers again at temperature 0 are replays and no data."),
        ("Equivalent", "both bounds lie inside the margin, by Tango's interval and by an exact test. No difference shown is not that."),
        ("Not resolved", "these items cannot decide it at this margin; pass 20 says how many would."),
        ("Slot 1", "the first draft token of a round. It is never past the end of an answer, so it can be compared between long and short ones."),
        ("Supported, reversed", "some cells show it and none the opposite, after Holm; the other way round."),
    )  # fmt: skip
    return Section(
        "reading",
        "How to read this",
        (
            Facts(facts),
            Verbatim("To write it again from the ledger", "specsafe study report FOLDER"),
            Para("No prompt and no answer stands here: ids, hashes and counts alone.", "note"),
        ),
    )
