"""From the typed result of a comparison to the report, whatever it will be written in."""

from __future__ import annotations

from specsafe.compare.result import ComparisonResult
from specsafe.report.blocks import Document
from specsafe.report.comparing.about import methods
from specsafe.report.comparing.answers import answered, costs, traded
from specsafe.report.comparing.contrasts import against
from specsafe.report.comparing.front import front
from specsafe.report.comparing.published import published
from specsafe.report.comparing.reading import reading
from specsafe.report.comparing.tuned import tuned
from specsafe.report.comparing.words import labelled_briefly, named
from specsafe.words import plural


def make_comparison(result: ComparisonResult) -> Document:
    """The sections in the order in which they are read."""
    return Document(
        title=f"{named(result.name)}: {plural(len(result.methods), 'method')} compared, specsafe",
        front=front(result),
        sections=(
            answered(result),
            traded(result),
            costs(result),
            *against(result),
            *tuned(result),
            *published(result),
            methods(result),
            reading(result),
        ),
        footer=(
            f"specsafe {named(result.version)}, comparison {named(result.name)}. It holds no answer text: counts alone.",
            labelled_briefly(result),
        ),
    )
