"""Figures: places on a scale, marks that do not lie, markup that is well formed whatever a name holds."""

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import HOSTILE, gate, make_result, stratum

from specsafe.report.figures import PAD, Scale, Svg, axis, curve, dots, header, linear, number, powers, strip
from specsafe.report.parts.safety import gate_scale, strata_scale

SPACE = "{http://www.w3.org/2000/svg}"


def parse(svg):
    assert isinstance(svg, Svg)
    return ET.fromstring(svg)


def places(svg, kind):
    """Places along x, in per cent, of every mark of a class."""
    return [
        float(place.get("x").rstrip("%"))
        for place in parse(svg).iter(f"{SPACE}svg")
        for path in place.findall(f"{SPACE}path")
        if kind in path.get("class").split()
    ]


@given(st.floats(-100, 99, allow_nan=False), st.floats(0.001, 200, allow_nan=False), st.integers(3, 8))
def test_a_linear_scale_holds_its_range_with_few_round_ticks(low, span, most):
    scale = linear(low, low + span, most)
    assert scale.low <= low + 1e-6 * span
    assert scale.high >= low + span - 1e-6 * span
    assert 2 <= len(scale.ticks) <= most + 2
    assert scale.at(scale.low) == pytest.approx(PAD)
    assert scale.at(scale.high) == pytest.approx(100 - PAD)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_places_keep_the_order_of_values_and_stay_inside(a, b):
    for scale in (linear(-5, 20), powers(0.001, 30)):
        x, y = sorted((a, b))
        assert PAD <= scale.at(x) <= scale.at(y) <= 100 - PAD


def test_a_logarithmic_scale_spaces_powers_evenly():
    scale = powers(0.001, 30)
    assert scale.ticks == pytest.approx((0.001, 0.01, 0.1, 1, 10, 100))
    steps = [b - a for a, b in zip(map(scale.at, scale.ticks), map(scale.at, scale.ticks[1:]), strict=False)]
    assert steps == pytest.approx([steps[0]] * 5)


def test_tick_labels_are_short_and_signed():
    assert [number(2.5), number(-5.0), number(10, sign=True), number(0, sign=True)] == [
        "2.5",
        "−5",
        "+10",
        "0",
    ]


def test_a_strip_shows_estimate_interval_bound_and_band_where_they_belong():
    scale = Scale(-10, 10, (-10, 0, 10))
    svg = strip(
        scale, "name: words", estimate=0, low=-5, high=5, bound=6, band=(-3, 3), limit=3, shape="square"
    )
    root = parse(svg)
    assert places(svg, "mark") == [50.0]
    assert places(svg, "bound") == [scale.at(6)]
    (interval,) = (e for e in root.iter(f"{SPACE}line") if "interval" in e.get("class"))
    assert [interval.get("x1"), interval.get("x2")] == [f"{scale.at(-5):.3f}%", f"{scale.at(5):.3f}%"]
    (band,) = (e for e in root.iter(f"{SPACE}rect") if e.get("class") == "band")
    assert float(band.get("x")[:-1]) == pytest.approx(scale.at(-3), abs=0.01)
    assert root.find(f"{SPACE}title").text == "name"
    assert root.find(f"{SPACE}desc").text == "words"


def test_an_interval_beyond_the_scale_ends_in_an_arrow():
    scale = linear(-5, 5)
    assert places(strip(scale, "t", estimate=0, low=-50, high=50), "arrow") == [PAD, 100 - PAD]
    assert places(strip(scale, "t", estimate=0, low=-1, high=1), "arrow") == []


def test_a_strip_without_data_draws_no_mark():
    assert places(strip(linear(0, 1), "t", estimate=None, low=None, high=None), "mark") == []


def test_every_fork_is_a_mark_of_its_own_until_there_are_too_many():
    scale = powers(0.001, 10)
    svg = dots(scale, "t", [0.01, 0.01, 0.5], [2.0, 9.0], limit=1.0)
    assert len(places(svg, "plain")) == 3
    assert len(places(svg, "bad")) == 2
    many = dots(scale, "t", [0.01] * 500 + [0.5] * 250, [2.0], limit=1.0)
    assert places(many, "mark") == []
    columns = [e for e in parse(many).iter(f"{SPACE}rect") if "column" in e.get("class")]
    heights = [float(c.get("height")) for c in columns]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.02)
    assert [c.get("class") for c in columns] == ["column", "column", "column bad"]


def test_gaps_of_nothing_and_below_nothing_sit_at_the_left_edge():
    svg = dots(powers(0.001, 10), "t", [0.0, -0.5, 0.0005], [], limit=1.0)
    assert len(set(places(svg, "mark"))) == 1


def test_the_curve_marks_only_what_was_always_caught_as_full():
    svg = curve(
        "t",
        linear(0, 10),
        [(1, 0, 2, 0.0), (3, 2, 4, 0.95), (6, 5, 7, 1.0)],
        chosen=6,
        limit=3,
        top="all",
        name="x",
    )
    assert len(places(svg, "hollow")) == 2
    assert len(places(svg, "plain")) == 1
    kinds = [e.get("class") for e in parse(svg).iter(f"{SPACE}line")]
    assert kinds.count("limit") == kinds.count("chosen") == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda t: strip(linear(-1, 1), t, estimate=0, low=-1, high=1),
        lambda t: axis(linear(-1, 1), t, left=t, right=t),
        lambda t: header(linear(-1, 1), t, 0.5, t),
        lambda t: dots(powers(0.01, 1), t, [0.1], [], limit=1),
        lambda t: curve(t, linear(0, 1), [(0, 0, 0, 1)], chosen=None, limit=1, top=t, name=t),
    ],
)
def test_hostile_names_are_text_in_a_figure(make):
    root = parse(make(HOSTILE))
    assert {e.tag.removeprefix(SPACE) for e in root.iter()} <= {
        "svg",
        "title",
        "desc",
        "line",
        "rect",
        "path",
        "text",
    }
    assert not any(k in ("style", "href") or k.startswith("on") for e in root.iter() for k in e.attrib)


def test_the_scales_of_a_forest_hold_the_margin_and_every_gate():
    result = make_result([gate(worse=40), gate("capability", better=10)])
    scale = gate_scale(result)
    assert scale.low <= -4
    assert scale.high >= 100 * result.gates[0].decision.bound
    wide = make_result([gate(strata=[stratum("small", 1, 3), stratum("rest", 0, 197)])])
    assert strata_scale(wide).high >= 100 / 3
    assert gate_scale(wide).high <= 10
