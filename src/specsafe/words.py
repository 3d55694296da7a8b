"""How counts stand in a sentence: 1 cell, 3 cells, 1,404 items."""

from __future__ import annotations

from numbers import Real


def plural(n: object, one: str, more: str = "") -> str:
    """A count and what it counts. more: where it is not `one` and an s, as for "cell has" and "cells have".

    n: a number, or what stands in for one, such as auto.
    """
    text = f"{float(n):,.10g}" if isinstance(n, Real) else str(n)
    return f"{text} {one if text == '1' else more or f'{one}s'}"


def form(n: float, one: str, more: str) -> str:
    """The form alone, where the count stands elsewhere: 1 of 30 answers leaves, 2 of 30 answers leave."""
    return one if n == 1 else more
