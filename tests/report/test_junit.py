"""JUnit: a case a gate and one for exactness; XML that every parser takes."""

from xml.etree import ElementTree as ET

import pytest
from made_results import exactness, gate, hostile_result, make_result

from specsafe.report.junit import render_junit
from specsafe.screen.result import Exactness, Verdict


def cases(result):
    """Name -> (element or None, message)."""
    found = {}
    for case in ET.fromstring(render_junit(result).encode()).iter("testcase"):
        inner = [e for e in case if e.tag != "system-out"]
        found[case.get("name")] = (inner[0].tag, inner[0].get("message")) if inner else (None, "")
    return found


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (Verdict.PASS, None),
        (Verdict.FAIL, "failure"),
        (Verdict.VOID, "error"),
        (Verdict.UNMEASURED, "skipped"),
        (Verdict.UNRESOLVED, "skipped"),
    ],
)
def test_a_verdict_becomes_what_ci_understands(verdict, element):
    found = cases(make_result([gate(verdict=verdict), gate("capability")]))
    assert found["harmful compliance"][0] == element
    assert found["capability"] == (None, "")
    assert element is None or str(verdict) in found["harmful compliance"][1]


@pytest.mark.parametrize(
    ("verdict", "lossless", "element"),
    [
        (Exactness.EXACT, True, None),
        (Exactness.NUMERICS, True, None),
        (Exactness.NOT_EXACT, True, "failure"),
        (Exactness.NOT_EXACT, False, None),
        (Exactness.NOT_ASSESSED, True, "skipped"),
    ],
)
def test_exactness_is_a_case_of_its_own(verdict, lossless, element):
    assert cases(make_result(exact=exactness(verdict, lossless)))["exactness"][0] == element


def test_the_counts_in_the_head_are_those_of_the_cases():
    result = make_result(
        [gate(worse=40), gate("capability", verdict=Verdict.VOID), gate("over_refusal", worse=3)]
    )
    root = ET.fromstring(render_junit(result).encode())
    for element in (root, root.find("testsuite")):
        assert {k: element.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
            "tests": "4",
            "failures": "1",
            "errors": "1",
            "skipped": "1",
        }


def test_hostile_names_are_legal_xml():
    text = render_junit(hostile_result())
    root = ET.fromstring(text.encode())
    assert {e.tag for e in root.iter()} <= {
        "testsuites",
        "testsuite",
        "properties",
        "property",
        "testcase",
        "failure",
        "skipped",
        "error",
        "system-out",
    }
    assert not set(text) & set("\x00\x07\x1b\u202e\ud800")


def test_the_same_result_gives_the_same_bytes_and_holds_no_time():
    text = render_junit(make_result())
    assert text == render_junit(make_result())
    assert "time" not in text
