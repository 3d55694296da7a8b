"""The rows of `bench/verdict.py` as two SVG figures: type-I error over n, power over the true difference.

Text and axes take `currentColor`, series have colours and marks of their own; a media query inside the file
changes them in the dark. Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log10

from specsafe.screen.result import Verdict
from verdict_page import ALPHA, DIFFERENCES, MARGIN, Row, errors, grouped

# What the power figure shows of the scenarios: little discordance, hardly anything that is not at risk.
BETTER_SHOWN, AT_RISK_SHOWN = 0.005, 0.9
LARGEST, STEPS = 0.15, 120
CURVE = tuple(d for k in range(STEPS + 1) if (d := round(k * LARGEST / STEPS, 6)) not in DIFFERENCES)

WIDTH, HEIGHT, GAP = 760, 376, 74
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 106, 48
STYLE = """
  svg { color: #20262e; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  text { fill: currentColor; }
  .title { font-weight: 600; font-size: 14px; }
  .axis { stroke: currentColor; stroke-opacity: .55; fill: none; }
  .grid { stroke: currentColor; stroke-opacity: .14; fill: none; }
  .limit { stroke: currentColor; stroke-dasharray: 5 4; fill: none; }
  .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
  .s0 { --c: #a34a00 } .s1 { --c: #8a6d00 } .s2 { --c: #00755a } .s3 { --c: #1d5fa8 } .s4 { --c: #7b3c9e }
  .line { stroke: var(--c); } .mark { fill: var(--c); stroke: none; }
  @media (prefers-color-scheme: dark) {
    svg { color: #e2e6eb; }
    .s0 { --c: #ff9e5e } .s1 { --c: #e3c34a } .s2 { --c: #4fd1ab } .s3 { --c: #7db7f5 } .s4 { --c: #d39bf0 }
  }
"""
# Marks in the order of the series, drawn around (0, 0).
MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "M-3.6,-3.6h7.2v7.2h-7.2Z",
    "M0,-4.8L4.6,3.6H-4.6Z",
    "M0,-5L5,0L0,5L-5,0Z",
    "M0,4.8L4.6,-3.6H-4.6Z",
)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """Values from low to high, where its ticks stand, how they are called, and what the axis is."""

    low: float
    high: float
    ticks: Sequence[float]
    name: str
    label: Callable[[float], str]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high, v = (log10(x) if self.log else x for x in (self.low, self.high, value))
        return (v - low) / (high - low)


@dataclass(frozen=True)
class Series:
    """A line through all points, with marks at some; number gives colour and mark."""

    number: int
    points: Points
    marked: Points


@dataclass(frozen=True)
class Panel:
    """A rectangle of the figure with its two axes."""

    left: float
    width: float
    title: str
    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a value."""
        height = HEIGHT - TOP - BOTTOM
        return self.left + self.width * self.x.share(x), TOP + height * (1 - self.y.share(y))

    def frame(self) -> Iterator[str]:
        """Title, grid, axes, ticks and their labels."""
        (x0, y0), (x1, y1) = self.at(self.x.low, self.y.low), self.at(self.x.high, self.y.high)
        yield text(x0, y1 - 24, self.title, "start", "title")
        for tick in self.y.ticks:
            _, y = self.at(self.x.low, tick)
            yield f'<path class="grid" d="M{x0:.1f},{y:.1f}H{x1:.1f}"/>'
            yield text(x0 - 8, y + 4.5, self.y.label(tick), "end")
        for tick in self.x.ticks:
            x, _ = self.at(tick, self.y.low)
            yield f'<path class="axis" d="M{x:.1f},{y0:.1f}v5"/>'
            yield text(x, y0 + 20, self.x.label(tick))
        yield f'<path class="axis" d="M{x0:.1f},{y0:.1f}H{x1:.1f}"/>'
        yield text((x0 + x1) / 2, y0 + 41, self.x.name)

    def series(self, series: Series) -> Iterator[str]:
        """A line and its marks."""
        inside = [self.at(x, y) for x, y in series.points if self.x.low <= x <= self.x.high]
        path = "L".join(f"{x:.1f},{y:.1f}" for x, y in inside)
        yield f'<path class="line s{series.number}" d="M{path}"/>'
        for x, y in (self.at(*p) for p in series.marked if self.x.low <= p[0] <= self.x.high):
            yield mark(series.number, x, y)

    def limit(self, *, x: float | None = None, y: float | None = None, name: str) -> Iterator[str]:
        """A dashed line across the panel at one value, with its name."""
        (x0, y0), (x1, y1) = self.at(self.x.low, self.y.low), self.at(self.x.high, self.y.high)
        if x is not None:
            place, _ = self.at(x, self.y.low)
            yield f'<path class="limit" d="M{place:.1f},{y0:.1f}V{y1:.1f}"/>'
            yield text(place, y1 - 6, name)
        if y is not None:
            _, place = self.at(self.x.low, y)
            yield f'<path class="limit" d="M{x0:.1f},{place:.1f}H{x1:.1f}"/>'
            yield text(x1, place - 6, name, "end")


def text(x: float, y: float, content: str, anchor: str = "middle", kind: str = "") -> str:
    """One line of text."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{content}</text>'


def mark(number: int, x: float, y: float) -> str:
    """The mark of a series."""
    return f'<path class="mark s{number}" transform="translate({x:.1f},{y:.1f})" d="{MARKS[number]}"/>'


def legend(names: Sequence[str]) -> Iterator[str]:
    """Line, mark and name of each series in one row."""
    place = float(LEFT)
    for number, name in enumerate(names):
        yield f'<path class="line s{number}" d="M{place:.1f},46h28"/>'
        yield mark(number, place + 14, 46)
        yield text(place + 36, 50.5, name, "start")
        place += 36 + 7.2 * len(name) + 22


def figure(title: str, described: str, parts: Sequence[str]) -> str:
    """The whole file."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">'
    return "\n".join(
        [head, f"<style>{STYLE}</style>", text(LEFT - 44, 18, title, "start", "title"), *parts, "</svg>", ""]
    )


def panels(titles: tuple[str, str], x: tuple[Axis, Axis], y: tuple[Axis, Axis]) -> list[Panel]:
    """Two panels side by side."""
    width = (WIDTH - LEFT - GAP - RIGHT) / 2
    lefts = (LEFT, LEFT + width + GAP)
    return [Panel(left, width, title, a, b) for left, title, a, b in zip(lefts, titles, x, y, strict=True)]


def percent(value: float) -> str:
    return f"{100 * value:g} %"


def error_figure(rows: list[Row]) -> str:
    """The worst type-I error of PASS and of FAIL for each n, a line a structure (exact rows)."""
    exact = {key: group for key, group in grouped(rows).items() if key[2] == "exact"}
    structures = list(dict.fromkeys(structure for structure, _, _ in exact))
    sizes = list(dict.fromkeys(n for _, n, _ in exact))
    over_n = Axis(min(sizes), max(sizes), sizes, "items (n)", "{:g}".format, True)
    chance = Axis(0, 0.06, (0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06), "", percent)
    titles = "Worst chance of a wrong PASS", "Worst chance of a wrong FAIL"
    parts = list(legend([_structure(s) for s in structures]))
    for panel, verdict in zip(
        panels(titles, (over_n, over_n), (chance, chance)), (Verdict.PASS, Verdict.FAIL), strict=True
    ):
        parts += [*panel.frame(), *panel.limit(y=ALPHA, name=f"allowed: {percent(ALPHA)}")]
        for number, structure in enumerate(structures):
            points = [
                (float(n), errors(group, verdict)[0].chance[verdict])
                for (s, n, _), group in exact.items()
                if s == structure
            ]
            parts += panel.series(Series(number, points, points))
    described = (
        "Worst type-I error of PASS and FAIL over the number of items, for independent and clustered items"
    )
    return figure(
        f"Type-I error: the true difference lies exactly at the margin of {100 * MARGIN:g} points",
        described,
        parts,
    )


def power_figure(rows: list[Row]) -> str:
    """P(PASS) and P(FAIL) over the true difference, a line for each n (independent items, exact rows)."""
    lines: dict[int, list[Row]] = {}
    for row in rows:
        s = row.scenario
        if (s.structure, row.method, s.p_better, s.at_risk) == (
            "independent",
            "exact",
            BETTER_SHOWN,
            AT_RISK_SHOWN,
        ):
            lines.setdefault(s.n, []).append(row)
    over = [
        Axis(0, high, ticks, "true difference (points worse)", lambda v: f"{100 * v:g}")
        for high, ticks in ((0.06, [k / 100 for k in range(7)]), (LARGEST, [0, 0.03, 0.05, 0.08, 0.10, 0.15]))
    ]
    chance = Axis(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1), "", percent)
    parts = list(legend([f"n = {n}" for n in lines]))
    titles = "Chance of PASS", "Chance of FAIL"
    for panel, verdict in zip(
        panels(titles, (over[0], over[1]), (chance, chance)), (Verdict.PASS, Verdict.FAIL), strict=True
    ):
        parts += [*panel.frame(), *panel.limit(x=MARGIN, name="margin")]
        for number, found in enumerate(lines.values()):
            unique = {r.scenario.difference: r.chance[verdict] for r in found}
            points = sorted(unique.items())
            parts += panel.series(Series(number, points, [p for p in points if p[0] in DIFFERENCES]))
    described = "Chance of PASS and of FAIL over the true difference, for 100 to 2000 items"
    return figure("Power: how often the rule says PASS and FAIL", described, parts)


def _structure(name: str) -> str:
    return (
        "independent items" if name == "independent" else f"all items tied in clusters of {name.split()[1]}"
    )
