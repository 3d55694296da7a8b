"""Render a model's chat template so that it stays known which characters a user wrote.

A template turns messages into one text, in which "<|im_end|>" written by the template and the same characters
written by a user look alike. So user text is put between two random numbers before rendering, which are
taken out afterwards: what stood between them is the user's. White space at a text's ends stays outside, since
templates trim it; it can spell no control token.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from specsafe.errors import UserError

# a date that moves would make answers depend on the day; this is the one that Llama's templates fall back to
TODAY = datetime.date(2024, 7, 26)


class Span(NamedTuple):
    """A stretch of a rendered chat. trusted: written by the template, not by a user."""

    text: str
    trusted: bool


def render(
    template: str,
    messages: Sequence[tuple[str, str]],
    variables: Mapping[str, str],
    source: object,
    *,
    opens: bool = True,
) -> list[Span]:
    """Messages as (role, text) -> spans in order, ending where the assistant begins to answer.

    The template runs in jinja's sandbox. variables: bos_token and the like. source: for error messages. opens: whether
    the template is asked to open the assistant's turn; False where the last message is the assistant's own.
    Raises UserError if the template is broken or refuses the messages (some know no system role).
    """
    left, right = _mark(), _mark()
    marked = [{"role": role, "content": _enclose(text, left, right)} for role, text in messages]
    try:
        text = _compiled(template).render(messages=marked, add_generation_prompt=opens, **variables)
    except Exception as error:  # a template is foreign code: whatever it raises is its own
        raise UserError(
            f"{source}: the chat template refuses this: {error}",
            "leave out the system prompt if it names that role, or run without a template: chat_template=off",
        ) from error
    return _spans(text, left, right, source)


def _mark() -> str:
    """Digits only, so that no filter of a template (upper, escape, tojson) changes them; 128 random bits."""
    return f"{secrets.randbits(128):039d}"


def _enclose(text: str, left: str, right: str) -> str:
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return text[:start] + left + core + right + text[start + len(core) :]


def _spans(text: str, left: str, right: str, source: object) -> list[Span]:
    spans = []
    for position, part in enumerate(text.split(left)):
        own, found, rest = part.partition(right)
        torn = any(piece in own + rest for piece in (left[:13], right[-13:]))
        if torn or bool(found) != bool(position):
            raise UserError(f"{source}: the chat template cuts messages apart", "use chat_template=off")
        spans += (
            [Span(own, trusted=False), Span(rest, trusted=True)] if position else [Span(own, trusted=True)]
        )
    return [span for span in spans if span.text]


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TODAY.strftime
    # training's {% generation %} blocks mark what to learn; for rendering they are blocks like any other
    plain = re.sub(r"(\{%-?\s*)generation(\s*-?%\})", r"\1if true\2", template)
    return environment.from_string(re.sub(r"(\{%-?\s*)endgeneration(\s*-?%\})", r"\1endif\2", plain))


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
