"""Reports of comparisons and of studies as files: a page, Markdown, figures of their own, and the typed result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from specsafe.report.blocks import Document, Drawing
from specsafe.report.comparing.document import make_comparison
from specsafe.report.files import write_whole
from specsafe.report.markdown import FIGURES, as_markdown
from specsafe.report.page import as_page
from specsafe.report.studies.document import make_study

Result = TypeVar("Result", bound=BaseModel)


@dataclass(frozen=True)
class Report(Generic[Result]):
    """How one kind of result is written. name: of its files. make: its document. heads: of the cards, in Markdown."""

    name: str
    make: Callable[[Result], Document]
    heads: tuple[str, ...]

    @property
    def result(self) -> str:
        """Name of the file that holds the typed result."""
        return f"{self.name}.json"

    def html(self, result: Result) -> str:
        """The report as one self-contained page."""
        return as_page(self.make(result))

    def markdown(self, result: Result) -> str:
        """The report as Markdown; its figures are the files beside it."""
        return as_markdown(self.make(result), self.heads)

    def write(self, result: Result, folder: Path) -> list[Path]:
        """Write page, Markdown, result and figures into a folder -> their paths, figures last.

        The same result gives the same bytes. Raises OSError where the folder cannot be written.
        """
        document = self.make(result)
        blocks = (b for section in document.sections for b in section.blocks)
        texts = {
            f"{self.name}.html": as_page(document),
            f"{self.name}.md": as_markdown(document, self.heads),
            self.result: as_json(result),
            **{f"{FIGURES}/{b.file}.svg": b.alone for b in blocks if isinstance(b, Drawing)},
        }
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_whole(folder / name, [text])
        return [folder / name for name in texts]


COMPARISON = Report("comparison", make_comparison, ("held", "differ", "by", "on each axis"))
STUDY = Report("study", make_study, ("hypothesis", "stands", "because", "by"))


def as_json(result: BaseModel) -> str:
    """A typed result as it stands in its file."""
    return result.model_dump_json(indent=1) + "\n"
