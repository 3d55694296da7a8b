"""The page and the figures of a study in a real browser: quiet, whole, and within every width."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from test_report_in_chromium import OUTSIDE, OVERFLOW, unfold

sys.path.append(str(Path(__file__).parents[1] / "analysis"))
from made_ledger import write_ledger

from specsafe.analysis.run import analyze
from specsafe.report.written import STUDY
from specsafe.study.ledger import read_ledger

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("chromium") is None and not os.environ.get("CI"),
        reason="no chromium on this system: apt-get install chromium",
    ),
]
KINDS = ("whole", "begun", "partly planned")
UNSEEN = """() => [...document.querySelectorAll('.drawing')].map(
  f => [...f.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0).length)"""


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Files of a study that is whole, one that nobody has answered, and one that judges H2 alone, in hostile words."""
    folder = tmp_path_factory.mktemp("studies")
    made = (
        {"each": 12},
        {"each": 6, "complete": False, "hide": lambda cell, item: True},
        {"each": 6, "hypotheses": {"H2": "<script>document.title='owned'</script>" + "A" * 5000}},
    )
    written = {}
    for kind, how in zip(KINDS, made, strict=True):
        with read_ledger(write_ledger(folder / kind, **how)) as ledger:
            written[kind] = STUDY.write(analyze(ledger), folder / kind)
    return written


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_quiet_and_fits_and_shows_its_figures(kind, width, scheme, studies, opened):
    page = opened(studies[kind][0], width, scheme)
    for _ in range(2):
        scroll, client = page.evaluate(OVERFLOW)
        assert scroll <= client
        assert page.evaluate(OUTSIDE) == []
        unfold(page)
    figures = [p for p in studies[kind] if p.suffix == ".svg"]
    assert page.locator(".drawing").count() == len(figures) >= (1 if kind == "begun" else 6)
    assert set(page.evaluate(UNSEEN)) == {1}  # of the two drawings of a figure
    assert page.title() != "owned"
    assert page.locator("h1 .verdict").inner_text().startswith("H2 " if kind == "partly planned" else "H0 ")


def test_a_figure_opens_alone(studies, opened):
    for path in (p for p in studies["whole"] if p.suffix == ".svg"):
        page = opened(path, 760, "dark")
        assert page.evaluate("document.documentElement.querySelector('.sheet') !== null")
