"""Counts in a sentence."""

import numpy as np
import pytest

from specsafe.words import form, plural


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (0, "0 cells"),
        (1, "1 cell"),
        (2, "2 cells"),
        (1404, "1,404 cells"),
        (65_765_000, "65,765,000 cells"),
        (100 * 0.01, "1 cell"),
        (100 * 0.07, "7 cells"),
        (0.5, "0.5 cells"),
        (np.int64(1), "1 cell"),
        ("auto", "auto cells"),
        (None, "None cells"),
    ],
)
def test_one_is_told_from_more(n, told):
    assert plural(n, "cell") == told


def test_what_the_count_governs_follows_it():
    assert plural(1, "cell has", "cells have") == "1 cell has"
    assert plural(3, "cell has", "cells have") == "3 cells have"
    assert f"1 of 30 answers {form(1, 'leaves', 'leave')} it" == "1 of 30 answers leaves it"
    assert form(0, "leaves", "leave") == form(2, "leaves", "leave") == "leave"
