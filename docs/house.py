"""The house in one picture: the folders of src/specsafe as rooms, on the floors that import-linter holds."""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

PACKAGE = "specsafe"
WIDTH, WALL, FLOOR, ROOF, GAP = 860, 46, 62, 84, 6
LETTER = 6.7  # pixels of an average letter of the small text
STYLE = """
  svg { color: #20262e; --room: #eef2f6; --edge: #7d8a99; --roof: #c9d6e4; font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  text { fill: currentColor; }
  .name { font: 600 15px ui-monospace, Menlo, Consolas, monospace; }
  .roof { fill: var(--roof); stroke: var(--edge); }
  .room { fill: var(--room); stroke: var(--edge); }
  .arrow { fill: none; stroke: currentColor; stroke-width: 1.6; }
  @media (prefers-color-scheme: dark) { svg { color: #e2e6eb; --room: #262c34; --edge: #78848f; --roof: #34475c; } }
"""


def house_figure(root: Path) -> str:
    """The figure of the repository at `root`. Raises ValueError where floors and folders do not match."""
    floors, rooms = read_floors(root), read_rooms(root)
    named = [room for floor in floors for room in floor]
    if sorted(named) != sorted(rooms):
        odd = sorted({*named} ^ {*rooms})
        raise ValueError(f"floors in pyproject.toml and rooms in src differ: {', '.join(odd)}")
    height = ROOF + len(floors) * (FLOOR + GAP) + 20
    described = "Floors from top to bottom: " + "; ".join(" and ".join(floor) for floor in floors)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{described}">',
            f"<style>{STYLE}</style>",
            *_roof(),
            *(part for n, floor in enumerate(floors) for part in _floor(n, floor, rooms)),
            *_arrow(height),
            "</svg>",
            "",
        ]
    )


def read_floors(root: Path) -> list[list[str]]:
    """Rooms floor by floor, the highest first, from the layers contract of import-linter."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    return [[room.strip().removeprefix(f"{PACKAGE}.") for room in layer.split("|")] for layer in layers]


def read_rooms(root: Path) -> dict[str, str]:
    """Room -> the first sentence of its docstring. A room is a folder or a module right under the package."""
    folder = root / "src" / PACKAGE
    files = [*folder.glob("*/__init__.py"), *(p for p in folder.glob("*.py") if not p.stem.startswith("_"))]
    named = {(p.parent if p.name == "__init__.py" else p).stem: p for p in files}
    return {name: _sentence(path) for name, path in named.items()}


def _sentence(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return said.split("\n")[0].split(". ")[0].rstrip(".")


def _roof() -> Iterator[str]:
    middle = WIDTH / 2
    yield f'<path class="roof" d="M{middle},6L{WIDTH - 14},{ROOF - GAP}H14Z"/>'
    yield f'<text class="name" x="{middle}" y="44" text-anchor="middle">{PACKAGE}</text>'
    yield f'<text x="{middle}" y="65" text-anchor="middle">a room imports only rooms under it</text>'


def _floor(number: int, floor: Sequence[str], rooms: Mapping[str, str]) -> Iterator[str]:
    width = (WIDTH - 2 * WALL - GAP * (len(floor) - 1)) / len(floor)
    top = ROOF + number * (FLOOR + GAP)
    for k, room in enumerate(floor):
        left = WALL + k * (width + GAP)
        yield f'<rect class="room" x="{left:g}" y="{top}" width="{width:g}" height="{FLOOR}" rx="3"/>'
        lines = textwrap.wrap(rooms[room], int((width - 28) / LETTER), max_lines=2, placeholder=" …")
        start = top + (20 if len(lines) > 1 else 26)
        yield f'<text class="name" x="{left + 14:g}" y="{start}">{room}</text>'
        for n, line in enumerate(lines):
            yield f'<text x="{left + 14:g}" y="{start + 19 + 16 * n}">{escape(line)}</text>'


def _arrow(height: int) -> Iterator[str]:
    """Down the right wall."""
    x = WIDTH - WALL / 2
    yield f'<path class="arrow" d="M{x},{ROOF + 14}V{height - 34}m-5,-8l5,9l5,-9"/>'
