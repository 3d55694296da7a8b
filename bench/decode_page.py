"""What `bench/decode.py` and `bench/safety.py` print: the machine, sections with tables, and what others used."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from inspect import getdoc
from pathlib import Path
from statistics import median

import torch

from decode_sides import Row
from timing import BUSY, PAUSE


def machine(threads: int) -> Row:
    """Where and with what this was measured."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.processor()
    )
    flags = next((x.split() for x in lines if x.startswith("flags")), [])
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "bf16 flags": " ".join(f for f in flags if f.endswith("_bf16")) or "none",
        "threads": f"{threads} (ours: torch.set_num_threads; peers: OMP_NUM_THREADS={threads}; "
        f"OMP_NUM_THREADS here: {os.environ.get('OMP_NUM_THREADS', 'not set')})",
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def show(title: str, rows: Sequence[Row], section: object = None) -> None:
    """Print a section; what it is about is told by the docstring of what made it."""
    about = f"{getdoc(section)}\n\n" if section else ""
    print(f"## {title}\n\n{about}{table(rows)}\n", flush=True)


def finish(said: dict[str, list[Row]], file: Path | None) -> None:
    """Print how many cores others used in the pauses, and write all that was said to a file if one is named."""
    most, usual = max(BUSY, default=0.0), median(BUSY or [0.0])
    said["others"] = [{"pauses": len(BUSY), "cores in use, at most": most, "median": usual}]
    told = f"others used at most {most:.2f} cores (median {usual:.2f})"
    print(f"In the {len(BUSY)} pauses of {PAUSE} s between turns {told}.")
    if file:
        file.write_text(json.dumps(said, indent=1), encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown; a column is there if any row has it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *([shown(row.get(name)) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/")
