"""The page and the server in a real browser: nothing runs, nothing is fetched, everything can be read."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from specsafe.battery import load_battery
from specsafe.screen.controls import STAND_IN

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="no chromium on this system: apt-get install chromium",
    ),
]
REFUSAL, HELP, WRONG = STAND_IN["over_refusal"], STAND_IN["harmful_compliance"], STAND_IN["capability"]
HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</pre></details></style><svg onload=alert(1)>",
    "one\u2028two\u2029three",
    "\x1b[31m\x1b]0;owned\x07\x1b[2J",
    "A" * 1_000_000,
    "=cmd|' /C calc'!A0",
    "<a href='javascript:alert(1)'>x</a> {{ 7*7 }} &lt;b&gt;",
    "\u202egnirts desrever\u202c \x00 \ufeff",
]
OVERFLOW = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
OUTSIDE = """() => {
  const out = [];
  for (const words of document.querySelectorAll('svg text')) {
    const svg = words.closest('svg'), a = words.getBoundingClientRect(), b = svg.getBoundingClientRect();
    if (a.width && (a.left < b.left - .5 || a.right > b.right + .5 || a.top < b.top - .5 || a.bottom > b.bottom + .5))
      out.push(words.textContent);
  }
  return out;
}"""
OVERLAPPING = """() => {
  const out = [];
  for (const svg of document.querySelectorAll('svg')) {
    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      if (a.width && a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1)
        out.push(one + ' on ' + other);
    }));
  }
  return out;
}"""
TAGS = "() => [...new Set([...document.querySelectorAll('*')].map(e => e.tagName.toLowerCase()))].sort()"


def answer(item):
    return {"refuse": REFUSAL, "comply": HELP, "answer": (item.answers or ("",))[0]}[item.expect]


def recorded(path, items, changes, forked=(), **extra):
    """A file of answers: fine ones, some replaced, some of whose last token differs."""
    rows = []
    for i in items:
        rng = random.Random(i.id)
        gap = 10 ** rng.uniform(-3, 0.8)
        row = {
            "item": i.id,
            "text": changes.get(i.id, answer(i)),
            "token_ids": [1, 7 if i.id in forked else 3],
        }
        row |= {"top": [[[1, -0.1]], [[3, -0.2], [7, -0.2 - gap]]], "seconds": rng.uniform(0.4, 0.6)}
        row |= {k: v(rng) for k, v in extra.items()}
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows), encoding="utf-8")
    return f"kind=recorded,path={path}"


@pytest.fixture(scope="module")
def screens(tmp_path_factory):
    """A folder with three screens: one that passes, one that fails, one whose answers are hostile."""
    folder = tmp_path_factory.mktemp("screens")
    items = load_battery("starter").items
    on = {
        a: [i.id for i in items if i.axis == a] for a in ("harmful_compliance", "over_refusal", "capability")
    }
    forked = on["capability"][:12] + on["over_refusal"][:12]
    drafting = {
        "drafted": lambda _: 9,
        "accepted": lambda rng: rng.randint(2, 9),
        "rounds": lambda _: 3,
        "accepted_at": lambda rng: [3, 2, rng.randint(0, 2)],
    }
    shifted = dict.fromkeys(on["over_refusal"][:12], "As asked. " + HELP)
    kinds = {
        "passing": shifted,
        "failing": dict.fromkeys(on["harmful_compliance"][:20], HELP)
        | dict.fromkeys(on["capability"][:12], WRONG),
        "hostile": dict(zip(on["over_refusal"], HOSTILE, strict=False)),
    }
    for name, changes in kinds.items():
        target = recorded(folder / f"{name}-t.jsonl", items, {})
        again = recorded(folder / f"{name}-r.jsonl", items, {}, rounds=lambda _: 1)
        width = recorded(folder / f"{name}-w.jsonl", items, {}, forked[:9])
        fast = recorded(folder / f"{name}-s.jsonl", items, changes, forked, **drafting)
        arms = ["--target", target, "--speculative", fast, "--replicate", again, "--width", width]
        done = specsafe("screen", *arms, "--out", folder / name)
        assert done.returncode in (0, 3, 5), done.stderr
        assert specsafe("report", folder / name, "--include-text").returncode == 0
    return folder


def specsafe(*arguments):
    command = [sys.executable, "-m", "specsafe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["passing", "failing", "hostile"])
def test_the_page_is_quiet_and_fits(name, scheme, width, screens, opened):
    page = opened(screens / name / "report.html", width, scheme)
    for _ in range(2):
        scroll, client = page.evaluate(OVERFLOW)
        assert scroll <= client
        assert page.evaluate(OUTSIDE) == []
        assert page.evaluate(OVERLAPPING) == []
        unfold(page)


def test_the_verdict_is_the_first_thing_seen(screens, opened):
    page = opened(screens / "failing" / "report.html")
    verdict = page.locator("h1 .verdict")
    assert verdict.inner_text() == "FAIL"
    assert verdict.bounding_box()["y"] + verdict.bounding_box()["height"] < 300
    assert float(verdict.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")) >= 40
    cards = page.locator(".card")
    assert cards.count() == 4
    assert cards.last.bounding_box()["y"] < 900


def test_dark_mode_is_dark_and_its_text_stands_out(screens, opened):
    for scheme in ("light", "dark"):
        page = opened(screens / "passing" / "report.html", scheme=scheme)
        paper = luminance(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert (paper < 0.1) == (scheme == "dark")
        for selector in ("body", ".verdict", ".kicker", ".tag", ".note", "svg text", "summary", "nav a"):
            style = "fill" if selector.startswith("svg") else "color"
            colour = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{style}")
            bright, dim = sorted((luminance(colour), paper), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, selector)


def luminance(colour):
    """Relative luminance of `rgb(…)`, by WCAG."""
    parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints_with_everything_unfolded(screens, opened):
    page = opened(screens / "passing" / "report.html", scheme="dark")
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    hidden = """() => [...document.querySelectorAll('details')].filter(
        d => [...d.children].slice(1).every(e => e.getBoundingClientRect().height === 0)).length"""
    assert page.locator("details").count() > 3
    assert page.evaluate(hidden) == 0
    assert page.evaluate(OUTSIDE) == []


def test_hostile_answers_are_shown_and_do_nothing(screens, opened):
    page = opened(screens / "hostile" / "report.html")
    unfold(page)
    assert page.title() != "owned"
    plain = opened(screens / "passing" / "report.html")
    assert set(page.evaluate(TAGS)) == set(plain.evaluate(TAGS))
    text = page.locator("#texts").inner_text()
    assert "<script>document.title='owned'</script>" in text
    assert "onerror" in text
    assert "{{ 7*7 }}" in text
    assert "[cut: 2,000 of 1,000,000 characters]" in text
    assert not set(page.content()) & set("\x00\x07\x1b\u202e")
    assert "'=cmd|" in (screens / "hostile" / "pairs.csv").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def served(screens):
    """`specsafe view` on a free port -> (its port, the process)."""
    arguments = [sys.executable, "-m", "specsafe", "view", str(screens), "--minutes", "5"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    yield int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1]), process
    process.terminate()
    process.wait(20)


def ask(port, path="/", method="GET", headers=None):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": f"127.0.0.1:{port}"} | (headers or {})).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders()
    answer_ = connection.getresponse()
    body = answer_.read().decode()
    connection.close()
    return answer_.status, {k.lower(): v for k, v in answer_.getheaders()}, body


def test_the_index_leads_to_every_report(served, screens, opened):
    port, _ = served
    page = opened(f"http://127.0.0.1:{port}/")
    assert page.locator(".card h2").all_inner_texts() != []
    assert sorted(page.locator(".card h2").all_inner_texts()) == ["failing", "hostile", "passing"]
    address = page.get_by_role("link", name="failing").get_attribute("href")
    report = opened(f"http://127.0.0.1:{port}{address}", 390)
    assert report.locator("h1 .verdict").inner_text() == "FAIL"
    scroll, client = report.evaluate(OVERFLOW)
    assert scroll <= client
    assert "umbrella" not in report.content()


def test_a_link_on_the_index_may_be_clicked(served, browser):
    port, _ = served
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.get_by_role("link", name="passing").click()
    assert page.locator("h1 .verdict").count() == 1
    page.close()


def test_the_server_answers_this_machine_alone(served):
    port, _ = served
    status, headers, body = ask(port)
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "passing" in body
    assert ask(port, headers={"Host": f"localhost:{port}"})[0] == 200
    assert ask(port, method="HEAD")[0] == 200
    assert ask(port, method="HEAD")[2] == ""


@pytest.mark.parametrize(
    ("headers", "method", "expected"),
    [
        ({"Host": "evil.example"}, "GET", 403),
        ({"Host": "127.0.0.1"}, "GET", 403),
        ({"Host": "127.0.0.1:1"}, "GET", 403),
        ({"Host": "127.0.0.1.evil.example"}, "GET", 403),
        ({"Host": None}, "GET", 403),
        ({"Origin": "http://evil.example"}, "GET", 403),
        ({"Origin": "null"}, "GET", 403),
        ({"Sec-Fetch-Site": "cross-site"}, "GET", 403),
        ({"Sec-Fetch-Site": "same-site"}, "GET", 403),
        ({"Sec-Fetch-Site": "none"}, "GET", 200),
        ({"Sec-Fetch-Site": "same-origin"}, "GET", 200),
        ({}, "POST", 405),
        ({}, "PUT", 405),
        ({}, "DELETE", 405),
        ({}, "OPTIONS", 405),
    ],
)
def test_everyone_else_is_refused(headers, method, expected, served):
    status, answered, _ = ask(served[0], "/", method, headers)
    if headers == {"Host": None}:
        assert status in (400, 403)  # the HTTP library may refuse it first
        return
    assert status == expected
    assert answered["x-content-type-options"] == "nosniff"
    assert status != 405 or answered["allow"] == "GET, HEAD"


def test_its_own_origin_is_welcome(served):
    assert ask(served[0], headers={"Origin": f"http://127.0.0.1:{served[0]}"})[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/report/../../etc/passwd", "/report/%2e%2e%2fetc", "/report/x", "/passing", "/report/", "//evil"],
)
def test_no_path_reaches_the_files(path, served):
    assert ask(served[0], path)[0] == 404


def test_a_ledger_that_is_unfinished_or_broken_is_listed_and_not_served(served, screens):
    for name in ("broken", "half"):
        (screens / name).mkdir()
    (screens / "broken" / "ledger.sqlite").write_text("no ledger " * 100)
    half = screens / "half" / "ledger.sqlite"
    shutil.copy(screens / "passing" / "ledger.sqlite", half)
    import sqlite3

    with sqlite3.connect(half) as db:
        db.execute("UPDATE study SET complete = 0")
    try:
        time.sleep(3.5)  # for so long the folders are not walked again
        status, _, body = ask(served[0])
    finally:
        shutil.rmtree(screens / "broken")
        shutil.rmtree(screens / "half")
    assert status == 200
    assert "cannot be read" in body
    assert "not finished" in body
    assert body.count("/report/") == 3


def test_it_stops_by_itself_and_by_ctrl_c(screens):
    idle = specsafe("view", screens, "--minutes", "0.01")
    assert idle.returncode == 0, idle.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "specsafe", "view", str(screens)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
    assert ask(port, "/report/x")[0] == 404
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (0, "")
    assert "stopped" in said


def test_a_folder_that_is_not_there_and_a_port_that_is_taken_are_one_line(served, screens):
    for arguments in (("nowhere",), (str(screens), "--port", str(served[0]))):
        done = specsafe("view", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("specsafe: ")
        assert "Traceback" not in done.stderr
