"""All statements of the publication, in the order of its sections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from specsafe.analysis.result import CellGates, Published
from specsafe.analysis.tables import Tables
from specsafe.analysis.tr144 import contrasts, pooled

STATEMENTS: tuple[Callable[[Tables], Iterator[Published]], ...] = (
    pooled.rates,
    pooled.identity,
    contrasts.tost,
    contrasts.bootstrapped,
    contrasts.point_checks,
    contrasts.cohens_h,
    pooled.odds,
    pooled.power,
    pooled.slopes,
    pooled.critical,
    pooled.acceptance,
    pooled.kappa,
    pooled.earlier,
)


def as_published(tables: Tables, gates: Sequence[CellGates]) -> tuple[Published, ...]:
    """Every statement that TR144 would have made from these rows, beside ours."""
    found = [statement for look in STATEMENTS for statement in look(tables)]
    return (*found, *contrasts.tais(tables, gates))
