"""The page and the figures of a comparison in a real browser: quiet, whole, and readable at every width."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from test_report_in_chromium import OUTSIDE, OVERFLOW, OVERLAPPING, luminance, unfold

sys.path.append(str(Path(__file__).parents[1] / "report"))
from made_comparison import hostile_comparison, make_comparison

from specsafe.report.written import COMPARISON

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="no chromium on this system: apt-get install chromium",
    ),
]
KINDS = ("two", "many", "hostile")
UNSEEN = """() => [...document.querySelectorAll('.drawing')].map(
  f => [...f.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0).length)"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll('svg text')]
  .map(t => t.getBoundingClientRect().height).filter(h => h > 0))"""


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory):
    """A folder a kind: two methods, 25 with ablations, and one whose every name is hostile."""
    folder = tmp_path_factory.mktemp("comparisons")
    made = (
        make_comparison(("vanilla", "ssd")),
        make_comparison(tuning=True),
        hostile_comparison(),
    )
    return {kind: COMPARISON.write(result, folder / kind) for kind, result in zip(KINDS, made, strict=True)}


@pytest.mark.parametrize(
    ("width", "scheme"), [(390, "dark"), (390, "light"), (1280, "light"), (1280, "dark")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_quiet_and_fits_and_no_label_covers_another(kind, width, scheme, comparisons, opened):
    page = opened(comparisons[kind][0], width, scheme)
    for _ in range(2):
        scroll, client = page.evaluate(OVERFLOW)
        assert scroll <= client
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(OVERLAPPING) == []
        unfold(page)
    assert set(page.evaluate(UNSEEN)) == {1}  # of the two drawings of a figure
    assert page.evaluate(SMALLEST) > 10
    paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.1) == (scheme == "dark")
    for selector in (".drawing .words", ".drawing .tick", ".drawing .name"):
        found = page.locator(f"{selector}:visible").first
        bright, dim = sorted(
            (luminance(found.evaluate("e => getComputedStyle(e).fill")), paper), reverse=True
        )
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, selector)


def test_what_stands_in_is_said_where_one_looks_first(comparisons, opened):
    page = opened(comparisons["many"][0])
    loud = page.locator(".flag.loud").first
    assert loud.inner_text() == "The refusal detector stands in for a guard model."
    assert loud.bounding_box()["y"] < 400
    assert page.locator("h1 .verdict").inner_text() == "25 methods"


def test_it_prints_with_the_wide_figures_and_everything_unfolded(comparisons, opened):
    page = opened(comparisons["many"][0], scheme="dark")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert page.locator(".drawing .wide:visible").count() == page.locator(".drawing").count() == 6
    assert page.evaluate(OUTSIDE) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_opens_alone(kind, comparisons, opened):
    figures = [p for p in comparisons[kind] if p.suffix == ".svg"]
    assert len(figures) == (3 if kind == "two" else 6)
    for path in figures:
        page = opened(path, 760, "dark")
        outside = """() => { const b = document.documentElement.getBoundingClientRect();
          return [...document.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
            .filter(([_, a]) => a.left < b.left || a.right > b.right + .5 || a.bottom > b.bottom + .5).map(([t]) => t); }"""
        assert page.evaluate(outside) == []
        assert page.evaluate("document.documentElement.querySelector('.sheet') !== null")
