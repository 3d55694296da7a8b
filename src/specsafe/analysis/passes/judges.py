"""Passes 2 and 22 and the error of scorers: what judges and people call answers. Without labels nothing is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

from scipy.stats import binom

from specsafe.analysis.measure import flips, share, slices
from specsafe.analysis.passes.phases import line
from specsafe.analysis.passes.synthesis import judged
from specsafe.analysis.result import Estimate, Found, Line, NoLabels, NotApplicable
from specsafe.analysis.tables import Tables
from specsafe.errors import UserError
from specsafe.scoring import REFUSAL_AXES
from specsafe.stats import cohen_kappa, proportion
from specsafe.study.cells import Cell
from specsafe.words import plural

UNDECIDED = ("unclear", "empty", "degenerate", "unparsed", "half", "")
CALLED = {"full_refusal": "refusal", "partial_refusal": "refusal", "compliance": "compliance"}
NONE_YET = NoLabels(reason="the ledger holds no label of a judge")
NO_RATERS = NoLabels(reason="the ledger holds no label of a judge or of people")
NO_PEOPLE = NoLabels(reason="the ledger holds no label of people: the scorers' error is not known")


Labels = Mapping[tuple[str, str], str]  # (item, text hash) -> label


class Both(NamedTuple):
    """What the scorer and another rater call the same texts, each text once."""

    detector: list[str]
    rater: list[str]


def called(label: str) -> str:
    """A rater's label in the scorer's words: full and partial refusals are refusals."""
    plain = label.strip().lower()
    return CALLED.get(plain, plain)


def merge(tables: Tables) -> Found:
    """Pass 2: of the distinct answers that were to be judged, how many have a judge's label, and how many it decides.

    Raises UserError where a judge's labels are there and not one decides anything: that is a broken pipeline, no finding.
    """
    if not tables.judge:
        return NONE_YET
    lines: list[Line] = []
    for name, labels in tables.judge.items():
        decided = {key for key, label in labels.items() if called(label) not in UNDECIDED}
        if not decided:
            raise UserError(
                f"none of {plural(len(labels), 'label')} of {name} decides anything: all are UNCLEAR or unreadable, and no "
                "agreement can be computed from them",
                "look at what the judge said and at how it is parsed, then judge again",
            )
        for cell in tables.cells.values():
            for axis, texts in _texts(tables, cell).items():
                have = [key for key in texts if key in labels]
                counted = share(
                    "judged", proportion(len(have), len(texts)), decided=sum(k in decided for k in have)
                )
                lines.append(
                    Line(
                        cell=cell.key,
                        where=cell.where,
                        pair=cell.pair,
                        axis=axis,
                        of=name,
                        estimates=(counted,),
                    )
                )
    return tuple(lines)


def _texts(tables: Tables, cell: Cell) -> dict[str, dict[tuple[str, str], str]]:
    """Axis -> (item, text hash) -> the scorer's label: equal texts of an item are one."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for (item, _), row in tables.rows[cell.key].items():
        axis = tables.items[item].axis
        if axis in REFUSAL_AXES:
            found.setdefault(axis, {})[item, row.text_sha256] = row.label
    return found


def agreement(tables: Tables) -> Found:
    """Pass 22: Cohen's kappa on refusals, each distinct text once: scorer and rater, place by place, and rater and rater.

    Raises UserError as pass 2 does; where no pair is decided there is no kappa, which is not a kappa of 0.
    """
    raters = {**tables.judge, **tables.human}
    if not raters:
        return NO_RATERS
    merge(tables)
    lines: list[Line] = []
    for name, labels in raters.items():
        for where in dict.fromkeys(c.where for c in tables.cells.values()):
            both = both_of(tables, labels, [c for c in tables.cells.values() if c.where == where])
            if both.rater:
                lines.append(Line(where=where, of=name, estimates=(kappa_estimate(both),)))
    for one, other in combinations(raters, 2):
        shared = [k for k in raters[one] if k in raters[other]]
        both = Both(*([called(raters[name][k]) for k in shared] for name in (one, other)))
        if shared:
            lines.append(Line(of=f"{one} and {other}", estimates=(kappa_estimate(both),)))
    return tuple(lines) or NotApplicable(reason="no labelled answer is of an axis of refusals")


def consensus(raters: Mapping[str, Labels]) -> dict[tuple[str, str], str]:
    """What all who decided call a text; unclear where they differ, or where nobody decided."""
    said: dict[tuple[str, str], set[str]] = {}
    for labels in raters.values():
        for key, label in labels.items():
            said.setdefault(key, set()).update({called(label)}.difference(UNDECIDED))
    return {key: next(iter(names)) if len(names) == 1 else "unclear" for key, names in said.items()}


def both_of(tables: Tables, labels: Labels, cells: list[Cell]) -> Both:
    """Scorer and rater on every distinct text of some cells that the rater has seen."""
    texts = {
        k: label for cell in cells for part in _texts(tables, cell).values() for k, label in part.items()
    }
    kept = [k for k in texts if k in labels]
    return Both([texts[k] for k in kept], [called(labels[k]) for k in kept])


def kappa_estimate(both: Both) -> Estimate:
    """Kappa, or why there is none."""
    try:
        k = cohen_kappa(both.detector, both.rater, undecided=UNDECIDED)
    except ValueError as error:
        return Estimate(
            name="kappa",
            estimate=None,
            low=None,
            high=None,
            k=0,
            n=0,
            method=str(error),
            unit="number",
            parts={"left out": len(both.rater)},
        )
    return Estimate(
        name="kappa",
        estimate=k.estimate,
        low=k.low,
        high=k.high,
        k=k.k,
        n=k.n,
        method=k.method if k.estimate is not None else f"{k.method}: both raters used one label alone",
        confidence=k.confidence,
        unit="number",
        parts={"left out": k.left_out},
    )


def scorer_error(tables: Tables) -> Found:
    """How many flips the scorers' own errors could make: the smallest net count that they do not explain.

    An error can only flip a pair whose texts differ, once in either arm: the bound is twice the upper limit of the
    scorers' error as people see it, over those pairs. Texts on which people differ are left out.
    """
    if not tables.human:
        return NO_PEOPLE
    both = both_of(tables, consensus(tables.human), list(tables.cells.values()))
    known = [(d, h) for d, h in zip(*both, strict=True) if h not in UNDECIDED]
    wrong = proportion(sum(d != h for d, h in known), len(known), confidence=0.90)
    if wrong.high is None:
        return NoLabels(reason="people decide no answer that is scored: the scorers' error is not known")
    lines: list[Line] = []
    for p in judged(tables):
        for axis, _, mask in slices(p, tasks=False):
            if axis in REFUSAL_AXES:
                f, differing = flips(p, mask), int((mask & ~p.same).sum())
                most = (
                    int(binom.isf(tables.alpha, differing, min(1.0, 2 * wrong.high))) + 1 if differing else 1
                )
                found = share(
                    "scorer wrong", wrong, worse=f.worse, texts_that_differ=differing, unexplained_from=most
                )
                reading = (
                    "beyond the scorers' error"
                    if f.worse >= most and f.worse
                    else "could be the scorers' error"
                )
                lines.append(line(p, [found], axis=axis, reading=reading if f.worse else "nothing got worse"))
    return tuple(lines) or NotApplicable(reason="no axis of refusals is judged")
