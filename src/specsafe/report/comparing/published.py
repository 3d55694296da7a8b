"""What the counts of publications could show at best."""

from __future__ import annotations

from specsafe.compare.result import ComparisonResult
from specsafe.report.blocks import Para, Row, Section, Table
from specsafe.report.comparing.words import named
from specsafe.report.numbers import p_value
from specsafe.words import plural


def published(result: ComparisonResult) -> list[Section]:
    """A section, where the file lists published counts."""
    found = result.published
    if not found:
        return []
    shown = sum(d.resolvable for d in found)
    return [
        Section(
            "published",
            "What the published counts could show",
            (
                Para(
                    f"{shown} of {plural(len(found), 'published difference')} could have been shown with so many prompts: even if no prompt "
                    "had changed the other way, the others do not pass 5 % after Holm."
                ),
                Table(
                    caption="Exact McNemar at its best: all that differs differs one way",
                    head=(
                        "method",
                        "against",
                        "harmful of n",
                        "best p",
                        "after Holm",
                        "could be shown",
                        "source",
                    ),
                    rows=tuple(
                        Row(
                            (
                                named(d.method),
                                named(d.baseline),
                                f"{d.harmful}/{d.n} against {d.baseline_harmful}/{d.n}",
                                p_value(d.best_p),
                                p_value(d.best_holm),
                                "yes" if d.resolvable else "no",
                                named(d.source),
                            ),
                            "strong" if d.resolvable else "plain",
                        )
                        for d in found
                    ),
                ),
            ),
        )
    ]
