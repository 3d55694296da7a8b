"""Markdown tables of what the code says of itself: the fields of a record, with words for those that have none."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

FIELDS = Path(__file__).with_name("fields.yaml")
Schema = Mapping[str, Any]
Lines = Iterator[str]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Lines:
    """A Markdown table with an empty line after it."""
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def code(text: str) -> str:
    """Text in the type of code."""
    return f"`{text}`"


def fields(record: Schema, name: str) -> Lines:
    """A table of the properties of a record."""
    shown = [n for n, p in record["properties"].items() if "default" in p and p["default"] not in (None, "")]
    head = ["key", "value", *(["default"] if shown else []), "what it is"]
    rows = []
    for key, property_ in record["properties"].items():
        default = code(_said(property_["default"])) if key in shown else ""
        needed = "required" if shown and key in record.get("required", ()) else default
        rows.append(
            [code(key), _value(property_), *([needed] if shown else []), meaning(name, key, property_)]
        )
    yield from table(head, rows)


def _said(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value}"


def _value(schema: Schema) -> str:
    """The values that a schema allows, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_value(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(code(str(v)) for v in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array" and "prefixItems" in schema:
        return f"[{', '.join(map(_value, schema['prefixItems']))}]"
    if kind == "array":
        return f"list of {_many(_value(schema.get('items', {})))}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"name → {_value(inner)}" if isinstance(inner, dict) else "object"
    named = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    return named.get(str(kind), str(kind or "any")) + _limits(schema)


def _many(value: str) -> str:
    plural = {"text": "texts", "whole number": "whole numbers", "number": "numbers"}
    return plural.get(value, f"({value})" if " or " in value else value)


def _limits(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None or (high is not None and high > 2**20):
        return ""
    return f", at least {low}" if high is None else f", {low} to {high}"


@functools.cache
def texts() -> dict[str, dict[str, str]]:
    """docs/fields.yaml: record -> field -> what it is."""
    found: dict[str, dict[str, str]] = yaml.safe_load(FIELDS.read_text(encoding="utf-8"))
    return found


def meaning(record: str, key: str, schema: Schema) -> str:
    """What a field is. Raises KeyError where neither the model nor docs/fields.yaml says it."""
    said = schema.get("description") or texts().get(record, {}).get(key)
    if not said:
        raise KeyError(f"docs/fields.yaml: write a line for {key} of {record!r}")
    return " ".join(said.split())
