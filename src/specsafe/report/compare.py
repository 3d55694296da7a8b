"""The report of a comparison as files: a page, Markdown, figures of their own, and the typed result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specsafe.compare.result import ComparisonResult
from specsafe.report.blocks import Document, Drawing
from specsafe.report.comparing.document import make_comparison
from specsafe.report.files import write_whole
from specsafe.report.markdown import FIGURES, as_markdown
from specsafe.report.page import as_page

RESULT = "comparison.json"
_HEADS = ("held", "differ", "by", "on each axis")  # of the cards, in Markdown


def comparison_page(result: ComparisonResult) -> str:
    """The report as Markdown; its figures are the files beside it."""
    return as_markdown(make_comparison(result), _HEADS)


def comparison_html(result: ComparisonResult) -> str:
    """The report as one self-contained page."""
    return as_page(make_comparison(result))


def comparison_document(result: ComparisonResult) -> str:
    """The result as JSON."""
    return result.model_dump_json(indent=1) + "\n"


def figures(document: Document) -> dict[str, str]:
    """File name -> figure that stands alone, in the order of the page."""
    blocks = (b for section in document.sections for b in section.blocks)
    return {f"{b.file}.svg": b.alone for b in blocks if isinstance(b, Drawing)}


def write_comparison(result: ComparisonResult, folder: Path) -> list[Path]:
    """Write page, Markdown, result and figures into a folder -> their paths, figures last.

    The same result gives the same bytes. Raises OSError where the folder cannot be written.
    """
    document = make_comparison(result)
    texts = {
        "comparison.html": as_page(document),
        "comparison.md": as_markdown(document, _HEADS),
        RESULT: comparison_document(result),
        **{f"{FIGURES}/{name}": text for name, text in figures(document).items()},
    }
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_whole(folder / name, [text])
    return [folder / name for name in texts]


def is_comparison(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a ledger is that of a comparison, not of a screen."""
    return {"methods", "baselines"} <= config.keys()
