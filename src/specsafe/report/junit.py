"""The report as JUnit XML for CI: a case a gate and one for exactness."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from specsafe.battery import axis_label
from specsafe.report.printable import printable
from specsafe.screen.headline import bound, cure, losses
from specsafe.screen.result import Exactness, Gate, ScreenResult, Verdict

# JUnit knows no "not decided": it is skipped here, and the exit code of the screen still says that it is no pass.
_ELEMENT = {
    Verdict.FAIL: "failure",
    Verdict.VOID: "error",
    Verdict.UNMEASURED: "skipped",
    Verdict.UNRESOLVED: "skipped",
}

_COUNTS = {
    "tests": "testcase",
    "failures": "testcase/failure",
    "errors": "testcase/error",
    "skipped": "testcase/skipped",
}


def render_junit(result: ScreenResult) -> str:
    """The document, the same bytes from the same result: it holds no time."""
    suite = ET.Element("testsuite", {"name": "specsafe screen"})
    _properties(suite, result)
    for gate in result.gates:
        _gate(suite, gate, result)
    _exactness(suite, result)
    counts = {name: len(suite.findall(path)) for name, path in _COUNTS.items()}
    for name, number in counts.items():
        suite.set(name, str(number))
    suites = ET.Element("testsuites", {"name": "specsafe", **{k: str(v) for k, v in counts.items()}})
    suites.append(suite)
    ET.indent(suites, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _properties(suite: ET.Element, result: ScreenResult) -> None:
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("verdict", result.verdict),
        ("exit code", result.exit_code),
        ("headline", result.headline),
        ("battery", result.battery),
        ("battery sha256", result.battery_sha256),
        ("study", result.study),
        ("specsafe", result.version),
    ):
        ET.SubElement(properties, "property", {"name": name, "value": printable(str(value))})


def _gate(suite: ET.Element, gate: Gate, result: ScreenResult) -> None:
    more = cure(gate, result.quick)
    message = f"{gate.verdict}: {bound(gate, result.margin)}"
    details = "; ".join([losses(gate), *gate.reasons, *([f"cure: {more}"] if more else [])])
    _case(suite, axis_label(gate.axis), _ELEMENT.get(gate.verdict), str(gate.verdict), message, details)


def _exactness(suite: ET.Element, result: ScreenResult) -> None:
    found = result.exactness
    element = "skipped" if found.verdict is Exactness.NOT_ASSESSED else None
    if found.verdict is Exactness.NOT_EXACT and found.claims_lossless:
        element = "failure"
    claims = "the rule claims to be lossless" if found.claims_lossless else "the rule admits to be lossy"
    _case(suite, "exactness", element, str(found.verdict), f"{found.verdict}: {found.reason}", claims)


def _case(suite: ET.Element, name: str, element: str | None, kind: str, message: str, details: str) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": "specsafe.screen", "name": printable(name)})
    if element is None:
        ET.SubElement(case, "system-out").text = printable(f"{message}; {details}")
        return
    said = ET.SubElement(case, element, {"message": printable(message)})
    if element != "skipped":
        said.set("type", kind)
    said.text = printable(details)
