"""From the typed result of a study to the report, whatever it will be written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from specsafe.analysis.result import StudyResult
from specsafe.report.blocks import Block, Document, Fold, Para, Section, Table
from specsafe.report.studies import figures
from specsafe.report.studies.front import front
from specsafe.report.studies.record import counts, gates, integrity, published, reading
from specsafe.report.studies.tables import HEAD, pass_blocks, rows
from specsafe.report.studies.words import in_words, named
from specsafe.words import plural

Draw = Callable[[StudyResult], list[Block]]


class Part(NamedTuple):
    """Passes under one heading, the figure first."""

    key: str
    title: str
    lead: str
    passes: tuple[str, ...]
    draw: tuple[Draw, ...] = ()


PARTS = (
    Part(
        "contrasts",
        "Every contrast",
        "Speculative arms against their matched targets at temperature 0, on unique items.",
        ("equivalence", "power", "common_odds", "heterogeneity", "leave_one_out", "margins", "clustered"),
        (figures.forest,),
    ),
    Part(
        "alone",
        "Models alone",
        "What targets and drafts do by themselves, and whether other studies saw the same.",
        ("scored", "baseline_rates", "draft_gap", "earlier_baselines"),
    ),
    Part(
        "exact",
        "Exact rules",
        "Under exact verification at temperature 0 only arithmetic can change an answer.",
        (
            "identity",
            "mcnemar_exact_rule",
            "direction_exact_rule",
            "forks",
            "exactness",
            "noise_floor",
            "width",
            "beyond_noise",
        ),
        (figures.identity, figures.causes),
    ),
    Part(
        "typical",
        "The rule of phase 3",
        "A lossy rule lets the draft through. Where the rule of phase 3 is lossless, this measures arithmetic once more.",
        (
            "mcnemar_typical",
            "direction_typical",
            "task_deltas",
            "divergence",
            "jailbreak",
            "toward_draft",
            "template_drift",
        ),
    ),
    Part(
        "dose",
        "Dose response",
        "The same items answer at every number of drafted tokens, so intervals count items.",
        ("dose_response", "slope_heterogeneity", "critical_dose"),
        (figures.dose,),
    ),
    Part(
        "acceptance",
        "Acceptance of the draft",
        "Slots past the end of an answer cannot be accepted: compare slot 1, and answers of equal length.",
        ("matched_positions", "acceptance_by_domain", "acceptance_by_task", "acceptance_and_flips", "speed"),
        (figures.positions,),
    ),
    Part(
        "controls",
        "Controls, temperature and what is only shown",
        "A null means something only where harm put in on purpose is found.",
        ("controls", "temperature", "shown_only", "replays", "nondeterminism", "audit"),
    ),
    Part(
        "labels",
        "Judges and people",
        "Without labels nothing is said of the scorers' errors.",
        ("judge_labels", "judge_agreement", "scorer_error"),
    ),
)


def make_study(result: StudyResult) -> Document:
    """The sections in the order in which they are read."""
    return Document(
        title=f"{named(result.name)}, a study: {result.first.name} {result.first.standing}, specsafe",
        front=front(result),
        sections=(
            counts(result),
            integrity(result),
            _hypotheses(result),
            gates(result),
            *(_part(result, part) for part in PARTS),
            published(result),
            reading(result),
        ),
        footer=(
            f"specsafe {named(result.version)}, study {result.study}. It holds no answer text: ids, hashes and counts alone.",
        ),
    )


def _part(result: StudyResult, part: Part) -> Section:
    drawn = [block for draw in part.draw for block in draw(result)]
    tables = [block for name in part.passes for block in pass_blocks(result.find(name))]
    return Section(part.key, part.title, (Para(part.lead), *drawn, *tables))


def _hypotheses(result: StudyResult) -> Section:
    """Each hypothesis with the lines that it stands on."""
    blocks: list[Block] = []
    for h in result.hypotheses:
        used = f" (passes {', '.join(map(str, h.passes))})" if h.passes else ""
        blocks.append(
            Para(f"{h.name}: {h.text} {str(h.standing).capitalize()}: {named(h.reason)}{used}.{in_words(h)}")
        )
        if h.evidence:
            table = Table(caption=f"Evidence of {h.name}", head=HEAD, rows=rows(h.evidence), numbers=False)
            blocks.append(Fold(f"{h.name}: {plural(len(table.rows), 'number')}", (table,)))
    return Section("hypotheses", "Hypotheses", tuple(blocks))
