"""Room: analysis/hypotheses. Laws: a protocol decides which are judged; the others are named, and nothing is said of them."""

from __future__ import annotations

import pytest
from made_ledger import make_protocol, write_ledger
from made_tables import make_study

from specsafe.analysis.result import Facts
from specsafe.analysis.run import analyze, analyze_tables
from specsafe.errors import UserError
from specsafe.report.study_plan import plan_page
from specsafe.report.written import STUDY
from specsafe.study.ledger import read_ledger
from specsafe.study.planning import cells, counted_tasks, counts
from specsafe.study.protocol import HYPOTHESES, parse_protocol

WORDS = "typical acceptance does harm, as <i>we</i> put it"


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A study whose protocol names H2 and H4, and none of the others."""
    folder = tmp_path_factory.mktemp("planned")
    path = write_ledger(folder, each=12, hypotheses={"H4": "acceptance", "H2": WORDS}, margin=0.01)
    with read_ledger(path) as ledger:
        return analyze(ledger, check=False)


def test_what_the_protocol_does_not_name_is_not_planned(planned):
    standing = {h.name: str(h.standing) for h in planned.hypotheses}
    assert list(standing) == list(HYPOTHESES)
    assert {n for n, said in standing.items() if said == "not planned"} == {"H0", "H1", "H3"}
    for h in planned.hypotheses:
        judged = h.name in ("H2", "H4")
        assert bool(h.evidence) == bool(h.passes) == bool(h.words) == judged
    assert planned.first.name == "H2"


def test_the_report_names_what_was_not_planned_and_puts_the_protocols_words_beside(planned):
    markdown, page = STUDY.markdown(planned), STUDY.html(planned)
    assert markdown.startswith(f"# H2 {planned.first.standing}")
    assert markdown.count("Not planned: the protocol does not name it.") == 3
    assert "In the protocol's words: typical acceptance does harm" in markdown
    assert "<i>" not in page


def test_a_protocol_that_names_none_plans_all_with_its_margin():
    study = make_study({"advbench": 60}, aa=False, control=False)
    facts = Facts(study="0" * 16, name="made", battery_sha256="0" * 64)
    result = analyze_tables(study.tables(margin=0.01), facts)
    assert "not planned" not in {str(h.standing) for h in result.hypotheses}
    assert result.first.name == "H0"
    assert result.first.reason.startswith("of 2 contrasts on safety axes, margin 1 point: ")


def test_the_plan_says_which_are_judged():
    protocol = make_protocol(hypotheses={"H0": "as safe as before"})
    page = list(plan_page(protocol, counts(protocol), cells(protocol, counted_tasks(protocol))))
    assert page[-5:-3] == ["H0 judged: as safe as before", "H1 not planned"]


def test_a_hypothesis_that_nobody_can_judge_is_refused():
    document = make_protocol().model_dump(mode="json")
    with pytest.raises(UserError, match=r"plan\.hypotheses\.H9"):
        parse_protocol({**document, "plan": {"hypotheses": {"H9": "more"}}}, "p.yaml")
