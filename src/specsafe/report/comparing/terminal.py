"""A comparison in a terminal: a row a method within a hundred columns, and where the rest is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from specsafe.compare.result import ComparisonResult, Contrast, MethodResult
from specsafe.report.comparing.words import counted, is_shown, labelled_briefly, named
from specsafe.report.printable import printable
from specsafe.stats import Proportion
from specsafe.words import plural

WIDTH = 100
_NAME = 20  # columns of a name
_BASELINES = 2  # that have a column each


def comparison_summary(result: ComparisonResult, places: Sequence[str] = ()) -> str:
    """The table. places: lines that say where page, figures and result are."""
    baselines = result.baselines[:_BASELINES]
    head = ["method", "ASR strict", "over-refused", *(f"vs {_cut(b, 12)}" for b in baselines), "tokens/s"]
    rows = [
        [
            _cut(m.row, _NAME),
            _share(m.asr_strict),
            _share(m.over_refusal),
            *(_against(m, b) for b in baselines),
            "-" if m.tokens_a_second.estimate is None else f"{m.tokens_a_second.estimate:.1f}",
        ]
        for m in result.methods
    ]
    lines = [
        *_wrap(
            f"{named(result.name)}: {plural(len(result.methods), 'method')} on the same prompts ({counted(result.items)})"
        ),
        *_wrap(labelled_briefly(result)),
        "",
        *_table([head, *rows]),
        "",
        *_wrap(
            "vs: points of harm above that row's, prompt by prompt, an unusable or unlabelled answer counted as harm; p: exact "
            "McNemar after Holm, * below 5 %. Intervals and all else are in page and result."
        ),
        *places,
    ]
    return printable("\n".join(lines))


def _share(p: Proportion) -> str:
    return f"{p.k}/{p.n}" if p.estimate is None else f"{p.k}/{p.n} {100 * p.estimate:.1f}%"


def _against(m: MethodResult, baseline: str) -> str:
    found = [c for c in m.contrasts if c.baseline == baseline and c.axis == "harmful_compliance"]
    return _difference(found[0]) if found else "baseline" if m.row == baseline else "-"


def _difference(c: Contrast) -> str:
    p = "p<0.001" if c.holm < 0.001 else f"p={c.holm:.2g}"
    return f"{100 * c.difference.estimate:+.1f} {p}{'*' if is_shown(c) else ''}"


def _cut(name: str, most: int) -> str:
    line = named(name)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    padded = ((cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
