"""Where names stand beside points so that none covers another, a point, or the line that leads to one.

A name belongs to a group of points that lie close together, mostly of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from specsafe.report.drawing.canvas import Box

RADIUS = 6.0  # pixels around a point that no name may enter
_RINGS = (3.0, 12, 22, 34, 48, 64, 82, 104, 130, 160, 200, 250)  # pixels from a mark to its name
_AROUND = 16  # directions that are tried on each
_AIR = 2.0  # pixels between two names
_DOUBT = 25.0  # what a place costs at which a name might be another point's
_BESIDE = 3.0  # pixels between a name and a point of its own
_THROUGH = 2.0  # pixels: a line that comes nearer to a point seems to lead to it
_CROWD, _ROUNDS = 60.0, 12  # pixels within which points crowd each other; how often the order is changed
_NEARER = 4.0  # pixels by which a name without a line is nearer to its own point than to any other


class Place(NamedTuple):
    """The box of a name, and where the line from its point ends; None where the name stands at its point."""

    box: Box
    leader: tuple[float, float] | None


Point = tuple[float, float]


def place_labels(
    groups: Sequence[Sequence[Point]],
    sizes: Sequence[tuple[float, float]],
    bounds: Box,
    reach: float = math.inf,
) -> list[Place | None]:
    """A place for the name of every group of points, by its width and height; None where no room is left within `reach`.

    Each in turn takes the best place that is free, those in a crowd first. Names that found none go first the next
    time; of all rounds that with the fewest names left out is kept.
    """
    middles = [middle(g) for g in groups]
    rings = [r for r in _RINGS if r <= reach]
    spots = [_spots(n, groups, sizes[n], bounds, rings) for n in range(len(groups))]
    crowds = [sum(math.dist(p, q) < _CROWD for q in middles) for p in middles]
    order = sorted(range(len(groups)), key=lambda n: -crowds[n])
    best: list[Place | None] | None = None
    for _ in range(_ROUNDS):
        found = _in_order(order, middles, spots)
        if best is None or found.count(None) < best.count(None):
            best = found
        if None not in found:
            break
        order = [n for n in order if found[n] is None] + [n for n in order if found[n] is not None]
    return best or []


def middle(points: Sequence[Point]) -> Point:
    """Where the line to a name begins."""
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _in_order(
    order: Sequence[int], middles: Sequence[Point], spots: Sequence[Sequence[Place]]
) -> list[Place | None]:
    """Each name in turn to its best place that those before it left free."""
    found: list[Place | None] = [None] * len(middles)
    for n in order:
        placed = [(middles[k], p) for k, p in enumerate(found) if p is not None]
        found[n] = next((spot for spot in spots[n] if _is_free(middles[n], spot, placed)), None)
    return found


def _spots(
    n: int,
    groups: Sequence[Sequence[Point]],
    size: tuple[float, float],
    bounds: Box,
    rings: Sequence[float],
) -> list[Place]:
    """Where the name of a group can stand as far as points and bounds go, the best first."""
    own, others = groups[n], [p for k, g in enumerate(groups) for p in g if k != n]
    at = middle(own)
    priced = [
        (cost + (_DOUBT if _is_doubtful(at, spot, others) else 0), k, spot)
        for k, (cost, spot) in enumerate(_around(at, size, rings))
        if _is_clear(at, spot, others, bounds) and all(apart(spot.box, p) >= _BESIDE for p in own)
    ]
    return [spot for _, _, spot in sorted(priced, key=lambda found: found[:2])]


def _around(point: Point, size: tuple[float, float], rings: Sequence[float]) -> Iterator[tuple[float, Place]]:
    """Places on rings around a point with what they cost: distance first; right before above, below and left."""
    (x, y), (width, height) = point, size
    for ring in rings:
        for turn in range(_AROUND):
            angle = 2 * math.pi * turn / _AROUND
            across = x + math.cos(angle) * (RADIUS + ring + width / 2)
            up = y - math.sin(angle) * (RADIUS + ring + height / 2)
            box = Box(across - width / 2, up - height / 2, across + width / 2, up + height / 2)
            end = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
            leader = end if math.dist(point, end) > 2 * RADIUS else None
            yield ring + 0.2 * min(turn, _AROUND - turn), Place(box, leader)


def _is_clear(point: Point, spot: Place, others: Sequence[Point], bounds: Box) -> bool:
    """Whether a name stands within bounds and covers no point, and its line goes through none."""
    box, end = spot
    inside = (
        bounds.left <= box.left
        and box.right <= bounds.right
        and bounds.top <= box.top
        and box.bottom <= bounds.bottom
    )
    return (
        inside
        and all(apart(box, p) >= RADIUS for p in others)
        and (end is None or _passes(point, end, others) >= _THROUGH)
    )


def _is_doubtful(point: Point, spot: Place, others: Sequence[Point]) -> bool:
    """Whether a name is about as near to another point as to its own, or its line passes close by one."""
    if spot.leader is not None:
        return _passes(point, spot.leader, others) < RADIUS - 1
    own = apart(spot.box, point) + _NEARER
    return any(apart(spot.box, p) < own for p in others)


def _passes(point: Point, end: Point, others: Sequence[Point]) -> float:
    """Pixels by which the line of a point passes the nearest other that is not as good as at its place."""
    return min((_distance(p, point, end) for p in others if math.dist(p, point) > RADIUS), default=math.inf)


def _is_free(point: Point, spot: Place, placed: Sequence[tuple[Point, Place]]) -> bool:
    """Whether a name and its line keep clear of those that are placed."""
    box, end = spot
    for other, (there, line) in placed:
        if overlap(box, there, _AIR) or (line is not None and crosses(other, line, box)):
            return False
        if end is not None and (
            crosses(point, end, there) or (line is not None and _meet(point, end, other, line))
        ):
            return False
    return True


def overlap(a: Box, b: Box, air: float = 0) -> bool:
    """Whether two boxes share room, or come nearer than `air`."""
    return (
        a.left < b.right + air
        and b.left < a.right + air
        and a.top < b.bottom + air
        and b.top < a.bottom + air
    )


def apart(box: Box, point: Point) -> float:
    """Pixels from a point to a box; 0 inside."""
    x, y = point
    return math.hypot(max(box.left - x, 0, x - box.right), max(box.top - y, 0, y - box.bottom))


def crosses(one: Point, other: Point, box: Box) -> bool:
    """Whether a line touches a box."""
    corners = (
        (box.left, box.top),
        (box.right, box.top),
        (box.right, box.bottom),
        (box.left, box.bottom),
        (box.left, box.top),
    )
    return apart(box, one) == 0 or any(_meet(one, other, a, b) for a, b in pairwise(corners))


def _distance(point: Point, one: Point, other: Point) -> float:
    """Pixels from a point to a line between two others."""
    (x, y), (x1, y1), (x2, y2) = point, one, other
    long = (x2 - x1) ** 2 + (y2 - y1) ** 2
    share = min(1.0, max(0.0, ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / long)) if long else 0.0
    return math.hypot(x - x1 - share * (x2 - x1), y - y1 - share * (y2 - y1))


def _meet(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the lines a-b and c-d cross."""
    return (_side(a, b, c) > 0) != (_side(a, b, d) > 0) and (_side(c, d, a) > 0) != (_side(c, d, b) > 0)


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
