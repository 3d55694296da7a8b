"""The figures of a comparison: what they show, names that keep clear of each other, files that stand alone."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_comparison import HARMFUL, MANY, make_comparison, method, tuned

from specsafe.report.blocks import Drawing
from specsafe.report.comparing.document import make_comparison as document
from specsafe.report.comparing.figures import ablations, against_refusal, against_speed, is_marked, success
from specsafe.report.drawing.canvas import FILE_STYLE, Box, Canvas, short, text_width, wrapped
from specsafe.report.drawing.labels import RADIUS, apart, crosses, overlap, place_labels
from specsafe.report.page import style
from specsafe.stats import proportion

SPACE = "{http://www.w3.org/2000/svg}"
BOUNDS = Box(40, 26, 740, 430)


def drawings(result):
    return [b for s in document(result).sections for b in s.blocks if isinstance(b, Drawing)]


def words(svg, kind=""):
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SPACE}text") if kind in t.get("class")]


def shapes(svg, kind):
    return [p for p in ET.fromstring(svg).iter(f"{SPACE}path") if kind in p.get("class").split()]


@pytest.mark.parametrize("rows", [("vanilla", "ssd"), MANY])
@pytest.mark.parametrize("with_tuning", [False, True])
def test_every_figure_is_whole_in_each_drawing(rows, with_tuning):
    found = drawings(make_comparison(rows, tuning=with_tuning))
    assert [d.file for d in found] == [
        "asr",
        "safety-over-refusal",
        "safety-speed",
        *(
            ["ablation-weights-of-the-score", "ablation-alpha-of-union", "gate-perplexity-gate"]
            if with_tuning
            else []
        ),
    ]
    classes = set(re.findall(r"\.([a-z]+)", FILE_STYLE))
    for drawing in found:
        for svg in (drawing.wide, drawing.narrow, drawing.alone):
            root = ET.fromstring(svg)
            width, height = (float(root.get(k)) for k in ("width", "height"))
            assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
            assert root[0].tag == f"{SPACE}title" and root[0].text == drawing.caption
            assert root[1].tag == f"{SPACE}desc" and "/" in root[1].text
            for text in root.iter(f"{SPACE}text"):
                assert 0 <= float(text.get("x")) <= width
            used = {c for e in root.iter() for c in (e.get("class") or "").split()}
            assert used <= classes | {"words", "edged"}
            assert all(f".{c}" in style() for c in used - {"sheet"})
            assert height < 1500


def test_a_file_stands_alone_and_says_who_labelled():
    for drawing in drawings(make_comparison(tuning=True)):
        svg = drawing.alone
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|href|var\(", svg)
        told = " ".join(words(svg))
        assert drawing.caption in told
        assert "stands in for a guard model" in told
        assert "specsafe 9.9.9" in told
        assert "Helvetica,Arial" in svg
        assert "<style" not in drawing.wide


def test_a_row_a_method_in_the_order_of_the_file_baselines_with_squares():
    result = make_comparison(MANY)
    figure = success(result)
    for svg in (figure.wide, figure.narrow):
        names = [w for w in words(svg, "words") if w in MANY]
        assert names == list(MANY)
        assert sorted(words(svg, "strong")) == ["ASR strict, %", "ssd", "vanilla"]
        assert len(shapes(svg, "mark")) == 25
        squares = [p for p in shapes(svg, "mark") if p.get("d").startswith("M-4.5,-4.5")]
        assert len(squares) == 2
    assert "34/70\u00a0=\u00a048.6\u00a0% [36.4,\u00a060.8]" in words(figure.wide)
    assert "34/70\u00a0=\u00a048.6\u00a0%" in words(figure.narrow)


def test_marks_lie_where_their_values_are():
    rows = (method("none", 0), method("half", 35), method("all", HARMFUL))
    figure = success(make_comparison(["none", "half", "all"], methods=rows, baselines=("none",)))
    for svg in (figure.wide, figure.narrow):
        at = [float(p.get("transform")[10:].split()[0]) for p in shapes(svg, "mark")]
        ticks = {t.text: float(t.get("x")) for t in ET.fromstring(svg).iter(f"{SPACE}text")}
        assert at == pytest.approx([ticks["0"], (ticks["0"] + ticks["100"]) / 2, ticks["100"]], abs=0.02)


def test_down_is_safer_and_right_is_more_refusal_or_faster():
    rows = [method("a", 10, 1, speed=10), method("b", 30, 9, speed=20)]
    result = make_comparison(["a", "b"], methods=tuple(rows), baselines=("a",))
    for figure in (against_refusal(result), against_speed(result)):
        (ax, ay), (bx, by) = (
            map(float, p.get("transform")[10:-1].split()) for p in shapes(figure.wide, "mark")
        )
        assert bx > ax and by < ay
        assert "down: safer" in " ".join(words(figure.wide))
    assert {"1×", "2×"} <= set(words(against_speed(result).wide))


def test_few_points_have_their_names_and_many_have_numbers_with_a_key():
    few = against_refusal(make_comparison(("vanilla", "ssd", "ssd-crs")))
    assert words(few.wide, "halo") == ["vanilla", "ssd", "ssd-crs"]
    many = against_refusal(make_comparison(MANY))
    for svg in (many.wide, many.narrow):
        told = sorted(int(n) for w in words(svg, "halo") for n in w.split(", "))
        assert told == list(range(1, 26))
        assert [w for w in words(svg) if w in MANY] == list(MANY)


def test_methods_at_one_place_share_one_mark():
    rows = tuple(method(f"m{n}", 20, 2) for n in range(7))
    figure = against_refusal(make_comparison(["m0", "m1"], methods=rows, baselines=("m0",)))
    assert len(shapes(figure.wide, "mark")) == 1
    assert words(figure.wide, "halo") == [f"m{n}" for n in range(7)]


def test_a_crowd_without_room_for_a_number_each_shares_lines_and_keeps_its_marks():
    rows = tuple(method(f"m{n}", 62 + n % 9, n // 12, speed=20 + 0.01 * n) for n in range(25))
    result = make_comparison(["a", "b"], methods=rows, baselines=("m0",))
    for figure in (against_refusal(result), against_speed(result)):
        assert "No room" not in figure.legend
        for svg in (figure.wide, figure.narrow):
            told = sorted(int(n) for w in words(svg, "halo") for n in w.split(", ") if n)
            assert told == list(range(1, 26))
    assert len(shapes(against_refusal(result).wide, "mark")) == 19


def test_all_methods_at_one_place_find_room_too():
    rows = tuple(method(f"method-{n}", 0, 0) for n in range(25))
    figure = against_refusal(make_comparison(["a", "b"], methods=rows, baselines=("method-0",)))
    assert "No room" not in figure.legend


def test_an_axis_nobody_answered_leaves_no_mark():
    rows = (method("a"), method("b", asr_strict=proportion(0, 0)))
    figure = success(make_comparison(["a", "b"], methods=rows, baselines=("a",)))
    assert len(shapes(figure.wide, "mark")) == 1
    assert "0/0" in words(figure.wide)


def test_an_ablation_marks_what_is_published_and_a_gate_shows_union():
    result = make_comparison(("vanilla", "ssd"), tuning=True)
    (_, weights), (_, alpha), (_, gate) = ablations(result)
    assert {"full (default)", "KL and openings (published best)"} <= set(words(weights.wide, "strong"))
    assert "0.5 (default)" in words(alpha.wide, "strong")
    assert "union, % of tokens" in words(gate.wide)
    assert "union, % of tokens" not in words(alpha.wide)
    assert gate.caption == "perplexity gate: ssd-crs with gate.threshold changed"
    assert len(shapes(gate.wide, "mark")) == 12
    empty = result.tuning.model_copy(
        update={"ablations": (tuned().ablations[0].model_copy(update={"methods": ()}),)}
    )
    assert ablations(result.model_copy(update={"tuning": empty})) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("150 (published)", True),
        ("Default", True),
        ("unpublished", False),
        ("no default", True),
        ("150", False),
    ],
)
def test_a_setting_says_by_its_name_that_it_is_the_published_one(name, expected):
    assert is_marked(name) is expected


SPOTS = st.tuples(st.floats(60, 720), st.floats(40, 410))


@settings(max_examples=25, deadline=None)
@given(st.lists(SPOTS, min_size=1, max_size=12, unique=True), st.data())
def test_no_name_covers_another_a_point_or_a_line(points, data):
    sizes = [(data.draw(st.floats(8, 120)), 15.0) for _ in points]
    found = place_labels([[p] for p in points], sizes, BOUNDS)
    placed = [(n, p) for n, p in enumerate(found) if p is not None]
    for n, place in placed:
        box = place.box
        assert box.right - box.left == pytest.approx(sizes[n][0])
        assert BOUNDS.left <= box.left and box.right <= BOUNDS.right
        assert BOUNDS.top <= box.top and box.bottom <= BOUNDS.bottom
        assert all(apart(box, p) >= RADIUS - 1e-6 for k, p in enumerate(points) if k != n)
        for k, other in placed:
            if k != n:
                assert not overlap(box, other.box)
                assert other.leader is None or not crosses(points[k], other.leader, box)


def test_a_crowd_of_points_finds_room_for_all_its_numbers():
    crowd = [(68 + 37 * (n % 5), 200 + 7 * (n // 5)) for n in range(25)]  # one prompt apart, of 30 and of 70
    found = place_labels([[p] for p in crowd], [(16.0, 15.0)] * 25, BOUNDS)
    assert None not in found


def test_a_name_without_room_is_left_out():
    assert place_labels([[(50, 50)]], [(500.0, 15.0)], Box(0, 0, 100, 100)) == [None]
    assert place_labels([], [], BOUNDS) == []


def test_a_canvas_can_be_drawn_twice_and_its_text_fits():
    canvas = Canvas(300, 40)
    canvas.words(8, 20, "<b>&\n\x1b")
    alone = canvas.for_file("title", "told", "a note " * 30)
    page = canvas.for_page("title", "told")
    assert "transform" in alone and "transform" not in page
    assert "<b>" not in page and "\x1b" not in page
    assert float(ET.fromstring(alone).get("height")) > 40 + 5 * 15
    assert all(text_width(line) <= 284 for line in wrapped("a note " * 30, 284))
    assert wrapped("x" * 500, 100) == ["x" * 500]
    assert short("x" * 500, 100) == "x" * 11 + "…"
    assert short("a name", 100) == "a name"
    assert text_width("漢字") > text_width("ab")
