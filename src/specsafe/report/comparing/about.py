"""What each method is, how it was configured, and what really ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specsafe.compare.result import ComparisonResult, MethodResult
from specsafe.report.blocks import Facts, Fold, Para, Row, Section, Table
from specsafe.report.comparing.words import named
from specsafe.report.parts.ran import flattened
from specsafe.report.printable import LONGEST, cut, one_line


def methods(result: ComparisonResult) -> Section:
    """A table of all, and in folds what the rows share and what each has of its own."""
    configs = [dict(flattened(m.config)) for m in result.methods]
    prints = [dict(flattened(m.fingerprint)) for m in result.methods]
    return Section(
        "methods",
        "What each method is",
        (
            Table(
                caption="The rows of the comparison",
                head=("row", "method", "what it is"),
                rows=tuple(
                    Row(
                        (named(m.row), named(m.method), _about(m)),
                        "strong" if m.row in result.baselines else "plain",
                    )
                    for m in result.methods
                ),
                numbers=False,
            ),
            Fold("What all rows share: configuration", (_facts(_shared(configs)),)),
            Fold("What all rows share: what really ran", (_facts(_shared(prints)),)),
            *_guard(result),
            Fold(
                "What each row has of its own",
                (
                    Table(
                        caption="Configuration, and what the engine reported where that differs",
                        head=("row", "configuration", "what really ran"),
                        rows=tuple(
                            Row((named(m.row), _own(config, configs), _own(print_, prints)))
                            for m, config, print_ in zip(result.methods, configs, prints, strict=True)
                        ),
                        numbers=False,
                    ),
                ),
            ),
            Para("Files are named with their hashes among what really ran.", "note"),
        ),
    )


def _guard(result: ComparisonResult) -> list[Fold]:
    """The guard's configuration, where there is one."""
    if result.guard is None:
        return []
    return [Fold("The guard model", (_facts(dict(flattened(result.guard.config))),))]


def _about(m: MethodResult) -> str:
    width = "; what it answers depends on how many tokens are drafted" if m.depends_on_lookahead else ""
    return f"{named(m.about)}{width}"


def _shared(flat: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Keys that all have, with one value."""
    return {k: v for k, v in flat[0].items() if all(k in f and f[k] == v for f in flat)}


def _own(mine: Mapping[str, str], all_: Sequence[Mapping[str, str]]) -> str:
    shared = _shared(all_)
    return "; ".join(f"{named(k)} = {_value(v)}" for k, v in mine.items() if k not in shared) or "–"


def _value(text: str) -> str:
    return one_line(cut(text, LONGEST))


def _facts(values: Mapping[str, str]) -> Facts:
    return Facts(tuple((named(k), _value(v)) for k, v in values.items()) or (("nothing", ""),))
