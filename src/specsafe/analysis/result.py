"""The one typed result of a study. Reports render it; nothing downstream computes a statistic again."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from specsafe.screen.result import Gate

Unit = Literal["share", "points", "number", "ratio", "odds"]
State = Literal["done", "no labels", "not applicable"]


class Standing(StrEnum):
    """What a study says of a hypothesis. Not planned: its protocol does not name it, so it is not judged."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    REVERSED = "reversed"
    NOT_TESTABLE = "not testable"
    NOT_PLANNED = "not planned"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """One number that cannot lose what it stands on.

    k of n: the count it is of; k is None where nothing is counted. n: unique items, or as `method` says. None for what is
    not known; `method` then says why. unit: how it is written: a share, a difference in points, a plain number, a ratio
    of sums, an odds ratio. parts: counts behind it by name (worse, better, clusters, discordance, …).
    """

    name: str
    estimate: float | None
    low: float | None
    high: float | None
    k: float | None
    n: float
    method: str
    confidence: float | None = None
    p: float | None = None
    unit: Unit = "share"
    parts: dict[str, float] = {}


class Line(_Record):
    """What a pass says of one thing: a cell, a slice of it, or several cells together.

    of: what is told apart beside cell, axis and task: a model, a dose, a position. reading: what follows, in a few words.
    """

    cell: str = ""
    where: str = ""
    pair: str = ""
    axis: str = ""
    task: str = ""
    of: str = ""
    estimates: tuple[Estimate, ...]
    reading: str = ""


class NoLabels(_Record):
    """A pass that needs labels of a judge or of people, and there are none."""

    reason: str


class NotApplicable(_Record):
    """A pass of which this study has nothing."""

    reason: str


Found = tuple[Line, ...] | NoLabels | NotApplicable


class PassResult(_Record):
    """One pass: its place in the list, what it looks at, and its lines."""

    number: int
    name: str
    title: str
    state: State
    reason: str
    lines: tuple[Line, ...]


class Hypothesis(_Record):
    """H0 to H4: what it says, how it stands, and on which passes and numbers. words: the protocol's own, if it has any."""

    name: str
    text: str
    words: str
    standing: Standing
    reason: str
    passes: tuple[int, ...]
    evidence: tuple[Line, ...]


class CellSummary(_Record):
    """A cell: planned against actual. shown_only: without a matched baseline, so nothing is judged.

    planned counts answers (items x samples); replays: answers of temperature 0 beyond the first, which are no data. tasks:
    task -> how many of its items, the first in the protocol's order.
    """

    key: str
    where: str
    part: str
    pair: str
    model: str
    draft: str
    rule: str
    lossless: bool
    drafted: int
    dtype: str
    temperature: float
    seed: int
    baseline: str
    arm: str
    replicates: tuple[int, ...]
    tasks: dict[str, int]
    items: int
    planned: int
    answered: int
    failed: int
    missing: int
    unscored: int
    truncated: int
    replays: int
    shown_only: bool


class CellGates(_Record):
    """What the rule of a screen says of one cell, axis by axis."""

    cell: str
    gates: tuple[Gate, ...]


class Published(_Record):
    """One statement as TR144 would have made it from these very rows, beside ours.

    same: both say the same. why: where they differ. invalid: the statement cannot be right whatever the rows are.
    """

    about: str
    cell: str
    axis: str
    task: str
    theirs: Estimate
    their_reading: str
    ours: Estimate | None
    our_reading: str
    same: bool
    invalid: bool
    why: str


class Facts(_Record):
    """What the ledger itself says of a study: what was locked, what deviates from it, and whether every row is intact.

    lock: hash and time of the locked protocol; None: it was never locked. checked: whether every row was held against its
    hash; verification: the problems found then. complete: nothing is left to be asked.
    """

    study: str
    name: str
    battery_sha256: str
    variant: str = ""
    title: str = ""
    complete: bool = True
    checked: bool = False
    lock: dict[str, Any] | None = None
    deviations: tuple[str, ...] = ()
    verification: tuple[str, ...] = ()


class StudyResult(Facts):
    """Everything that a study says. answers: rows of all cells; unique_answers: cells that share an arm share its answers."""

    version: str
    margin: float
    alpha: float
    items: int
    answers: int
    unique_answers: int
    cells: tuple[CellSummary, ...]
    passes: tuple[PassResult, ...]
    hypotheses: tuple[Hypothesis, ...]
    gates: tuple[CellGates, ...]
    published: tuple[Published, ...]
    scorers: tuple[str, ...]

    @property
    def first(self) -> Hypothesis:
        """The first hypothesis that is judged."""
        return next(h for h in self.hypotheses if h.standing != Standing.NOT_PLANNED)

    def find(self, name: str) -> PassResult:
        """The pass of this name. Raises KeyError for another name."""
        return {p.name: p for p in self.passes}[name]
