"""The report of a study as files: a page, Markdown, figures of their own, and the typed result."""

from __future__ import annotations

from pathlib import Path

from specsafe.analysis.result import StudyResult
from specsafe.report.blocks import Document, Drawing
from specsafe.report.files import write_whole
from specsafe.report.markdown import FIGURES, as_markdown
from specsafe.report.page import as_page
from specsafe.report.studies.document import make_study

RESULT = "study.json"
_HEADS = ("hypothesis", "stands", "because", "by")  # of the cards, in Markdown


def study_page(result: StudyResult) -> str:
    """The report as Markdown; its figures are the files beside it."""
    return as_markdown(make_study(result), _HEADS)


def study_html(result: StudyResult) -> str:
    """The report as one self-contained page."""
    return as_page(make_study(result))


def study_document(result: StudyResult) -> str:
    """The result as JSON."""
    return result.model_dump_json(indent=1) + "\n"


def study_figures(document: Document) -> dict[str, str]:
    """File name -> figure that stands alone, in the order of the page."""
    blocks = (b for section in document.sections for b in section.blocks)
    return {f"{b.file}.svg": b.alone for b in blocks if isinstance(b, Drawing)}


def write_study(result: StudyResult, folder: Path) -> list[Path]:
    """Write page, Markdown, result and figures into a folder -> their paths, figures last.

    The same result gives the same bytes. Raises OSError where the folder cannot be written.
    """
    document = make_study(result)
    texts = {
        "study.html": as_page(document),
        "study.md": as_markdown(document, _HEADS),
        RESULT: study_document(result),
        **{f"{FIGURES}/{name}": text for name, text in study_figures(document).items()},
    }
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(folder / name, [text])
    return [folder / name for name in texts]
