"""From the one typed result to the report, whatever it will be written in."""

from __future__ import annotations

from specsafe.report.blocks import Document
from specsafe.report.parts.comparison import comparison
from specsafe.report.parts.controls import controls
from specsafe.report.parts.drafting import drafting
from specsafe.report.parts.exactness import exactness
from specsafe.report.parts.front import front
from specsafe.report.parts.ran import planned, ran
from specsafe.report.parts.reading import reading
from specsafe.report.parts.safety import safety
from specsafe.report.parts.texts import Texts, pairs
from specsafe.screen.result import ScreenResult


def make_document(result: ScreenResult, texts: Texts | None = None) -> Document:
    """The sections in the order in which they are read. texts: pairs of answers, if they were asked for."""
    output = "It holds model output." if texts else "It holds no answer text: ids, hashes and counts only."
    return Document(
        title=f"{result.verdict}: {result.battery}, specsafe",
        front=front(result),
        sections=(
            *safety(result),
            exactness(result),
            controls(result),
            drafting(result),
            planned(result),
            ran(result),
            comparison(result),
            *([pairs(texts)] if texts else []),
            reading(result),
        ),
        footer=(f"specsafe {result.version}, study {result.study}. {output}",),
    )


def without_timings(result: ScreenResult) -> ScreenResult:
    """The result without what a clock measured, so that two runs of one screen can be compared byte by byte."""
    resolved = {k: v for k, v in result.resolved.items() if k != "probe"}
    return result.model_copy(update={"speed_up": None, "resolved": resolved})
