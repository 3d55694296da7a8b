"""From a ledger, or from tables, to the one result of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from specsafe import __version__
from specsafe.analysis.earlier import baselines_of, published_baselines
from specsafe.analysis.gates import judge_cells
from specsafe.analysis.hypotheses import judge_hypotheses
from specsafe.analysis.read import read_tables
from specsafe.analysis.result import CellSummary, Facts, PassResult, StudyResult
from specsafe.analysis.table import PASSES, run_pass
from specsafe.analysis.tables import Row, Tables, kept_replicates
from specsafe.analysis.tr144 import as_published
from specsafe.scoring import UNSCORED
from specsafe.study.cells import Cell
from specsafe.study.ledger import Ledger
from specsafe.study.protocol import HypothesisName, Plan
from specsafe.study.reading import cells_of, deviations_of, lock_of, protocol_of
from specsafe.study.verify import verify


def analyze(ledger: Ledger, *, earlier: Sequence[Ledger] = (), check: bool = True) -> StudyResult:
    """The result of a study's ledger, whatever of it is answered. Scores that are missing are added to it.

    earlier: ledgers of other studies, for their baselines. check: hold every row against its hash first, which reads the
    whole file. Raises UserError where the ledger holds no study, or a pass says that it cannot be analysed.
    """
    protocol = protocol_of(ledger)
    tables = read_tables(
        ledger,
        cells_of(ledger),
        margin=protocol.plan.margin,
        alpha=protocol.plan.alpha,
        power=protocol.plan.power,
        draws=protocol.plan.bootstrap,
        tasks=ledger.resolved()["tasks"],
        earlier=(*published_baselines(protocol), *(baselines_of(other) for other in earlier)),
    )
    facts = Facts(
        study=ledger.study,
        name=protocol.name,
        variant=protocol.variant,
        title=protocol.title,
        complete=ledger.complete,
        battery_sha256=ledger.battery_sha256(),
        lock=lock_of(ledger),
        deviations=tuple(deviations_of(ledger)),
        checked=check,
        verification=tuple(verify(ledger)) if check else (),
    )
    return analyze_tables(tables, facts, protocol.plan.judged)


def without_timings(result: StudyResult) -> StudyResult:
    """The result without what a clock measured, so that two runs of one study can be compared byte by byte."""
    passes = tuple(
        p.model_copy(update={"state": "not applicable", "reason": "timings were left out", "lines": ()})
        if p.name == "speed"
        else p
        for p in result.passes
    )
    return result.model_copy(update={"passes": passes})


def analyze_tables(
    tables: Tables, facts: Facts, planned: Mapping[HypothesisName, str] = Plan().judged
) -> StudyResult:
    """The result of a study whose answers are in tables. planned: the hypotheses that are judged, in the protocol's words.

    Raises UserError where a pass says that it cannot be analysed.
    """
    passes: dict[str, PassResult] = {p.name: run_pass(p, tables) for p in PASSES}
    gates = judge_cells(tables)
    rows = [row for cell in tables.rows.values() for row in cell.values()]
    made = {(tables.cells[key].arm, *place) for key, cell in tables.rows.items() for place in cell}
    return StudyResult(
        **facts.model_dump(),
        version=__version__,
        margin=tables.margin,
        alpha=tables.alpha,
        items=len(tables.items),
        answers=len(rows),
        unique_answers=len(made),
        cells=tuple(summarize(tables, c) for c in tables.cells.values()),
        passes=tuple(passes.values()),
        hypotheses=judge_hypotheses(passes, tables, planned),
        gates=gates,
        published=as_published(tables, gates),
        scorers=tuple(sorted({row.scorer for row in rows if row.scorer})),
    )


def summarize(tables: Tables, cell: Cell) -> CellSummary:
    """What was planned of a cell, and what became of it."""
    rows, failed = tables.rows[cell.key], tables.failed.get(cell.key, frozenset())
    planned = len(cell.items) * len(cell.replicates)
    kept = kept_replicates(cell)
    return CellSummary(
        **cell.planned,
        baseline=cell.baseline,
        tasks=dict(Counter(tables.items[i].task for i in cell.items)),
        items=len(cell.items),
        planned=planned,
        answered=len(rows),
        failed=len(failed - rows.keys()),
        missing=planned - len(rows) - len(failed - rows.keys()),
        unscored=_unscored(rows.values()),
        truncated=sum(r.truncated for r in rows.values()),
        replays=sum(r not in kept for _, r in rows),
        shown_only=not cell.baseline and cell.part not in ("target", "draft"),
    )


def _unscored(rows: Iterable[Row]) -> int:
    return sum(r.label in ("", UNSCORED) for r in rows)
