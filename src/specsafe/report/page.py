"""The report as one self-contained HTML page: no script, no address outside of it, the same bytes each time."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from specsafe.report.blocks import Document
from specsafe.report.document import make_document
from specsafe.report.parts.texts import Texts
from specsafe.report.printable import printable
from specsafe.screen.result import ScreenResult


def render_page(result: ScreenResult, texts: Texts | None = None) -> str:
    """The page of a result. texts: pairs of answers to show, if they were asked for."""
    return as_page(make_document(result, texts))


def as_page(document: Document) -> str:
    """The page of any report."""
    return render("report.html.j2", document=document)


def render(template: str, **values: Any) -> str:
    """A template of this package with stylesheet and policy; every value is escaped."""
    return _environment().get_template(template).render(css=Markup(style()), policy=policy(), **values)  # noqa: S704


@cache
def style() -> str:
    """The stylesheet, without its comments' need for a file of its own."""
    return files("specsafe.report").joinpath("templates/report.css").read_text(encoding="utf-8")


@cache
def policy() -> str:
    """The Content-Security-Policy: nothing is loaded, nothing runs, and only this very stylesheet applies."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; script-src 'none'; img-src 'none'; base-uri 'none'; form-action 'none'"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("specsafe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )


def _clean(value: Any) -> Any:
    """Whatever reaches the page as text has no control characters; markup made here stays as it is."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
