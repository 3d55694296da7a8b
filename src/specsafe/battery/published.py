"""The task files of the TR144 publication (a template and samples each) as items, with its labels mended.

The files are not shipped. A file whose SHA-256 is the published one is known; any other file of the same
shape is read alike and its battery called modified.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from specsafe.battery.items import LETTERS
from specsafe.errors import UserError

CORRECTIONS = "corrections-1"
TASK = "published task"  # key of a head: which published file it is, or "" for one with other bytes
SHA256 = {
    "advbench_refusal": "41aff17f6e6776e2dd0632d9eeace79f962d6f4e91b1c3babade98d046ab2791",
    "jailbreak_amplification": "9927a7632c13e8ac2499c16107fa9bfc5af294777eccc4f63d226ad34b8314be",
    "bbq_bias": "b2d7b2f4eb01ab5d5954a157ab760fbf4822830cf9ea2bd00977381cd558b94c",
    "truthfulqa": "0859f4624f216675ef548fcc8354ee45940159e8dd9248f5682bc7a4c81464bd",
    "mmlu_real": "d3e39eb690c58ae8997612a6c0e3368e0b04567f68c241c103445db668d78de2",
    "arc_challenge": "5de7464640ef164ed643e096b1f00a144a6dbc768b461189372be3b44e57c840",
}
Row = dict[str, Any]
_SLOT = re.compile(r"{{\s*(\w+)\s*}}")
_CHOICE = re.compile(r"^([A-J])\) (.*)$", re.MULTILINE)


def is_published(document: dict[str, Any]) -> bool:
    """Whether a YAML document has the shape of a published task file."""
    return {"prompt_template", "samples", "task_type", "name"} <= set(document)


def read_task(path: Path, document: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Row]]]:
    """(head, rows) of one task file. Raises UserError for a sample that lacks what its task needs."""
    name, kind = str(document["name"]), str(document["task_type"])
    if kind not in _TASKS or not isinstance(document["samples"], list):
        raise UserError(
            f"{path}: unknown task_type {kind!r}, or samples is no list",
            f"task types: {', '.join(_TASKS)}",
        )
    known = hashlib.sha256(path.read_bytes()).hexdigest() == SHA256.get(name)
    rows = list(_rows(path, name, document))
    return {TASK: name if known else "", "notes": _notes(name, rows)}, rows


def folder_head(path: Path, tasks: list[str]) -> dict[str, str]:
    """The head of a battery of such files, one of them `path`: modified as a whole if any one of them is."""
    if not all(tasks):
        folder = path.absolute().parent.name
        return {"name": f"tr144-like {folder}", "version": "modified", "license": "unknown"}
    part = f", {len(tasks)} of {len(SHA256)} files" if len(tasks) < len(SHA256) else ""
    return {"name": "tr144", "version": f"published, {CORRECTIONS}{part}", "license": "see the sources"}


def _notes(name: str, rows: list[tuple[str, Row]]) -> list[str]:
    """What was corrected in the labels of a file."""
    wrong = sum(r.get("published", "") in r["answers"] for _, r in rows if r.get("scorer") == "bias")
    doubtful = sum(r.get("scorer") == "bias" and not r["wrong"] for _, r in rows)
    if not doubtful:
        return []
    return [
        f"{name}, {CORRECTIONS}: {wrong} of {len(rows)} stereotype labels name the choice that says it cannot be known; "
        f"{doubtful} in all may be a reader's fallback and are not trusted: an answer that names a group there has no direction"
    ]


def _rows(path: Path, name: str, document: dict[str, Any]) -> Iterator[tuple[str, Row]]:
    make = _TASKS[str(document["task_type"])]
    for number, sample in enumerate(document["samples"], 1):
        try:
            prompt = _SLOT.sub(lambda m: _slot(sample, m[1]), document["prompt_template"])  # noqa: B023
            row = {"id": sample["id"], "task": name, "prompt": prompt.strip(), **make(sample)}
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"{path}: sample {number} lacks {error}", "restore the published file") from error
        except ValueError as error:
            raise UserError(f"{path}: sample {number}: {error}", "restore the published file") from error
        yield f"sample {number}", row


def _slot(sample: Row, key: str) -> str:
    """What goes into the template. Raises ValueError where it is neither text nor a number."""
    if isinstance(sample[key], bool) or not isinstance(sample[key], str | int | float):
        raise ValueError(f"{key} must be text, got {sample[key]!r:.60}")
    return str(sample[key])


def _index(sample: Row, key: str) -> int:
    """One of the three choices. Raises ValueError for anything else."""
    if str(sample[key]) not in ("0", "1", "2"):
        raise ValueError(f"{key} must be 0, 1 or 2, got {sample[key]!r:.60}")
    return int(sample[key])


def _refusal(sample: Row) -> Row:
    """Variants of one behaviour share a cluster; the kind of attack is the stratum."""
    return {
        "axis": "harmful_compliance",
        "category": sample.get("jailbreak_type", ""),
        "cluster": sample.get("base_behavior_id", ""),
    }


def _bias(sample: Row) -> Row:
    """A stereotype index is trusted only if the pair of indices cannot be the reader's fallback (0, 1)."""
    stereotyped, anti = _index(sample, "stereotyped_idx"), _index(sample, "anti_stereotyped_idx")
    unknown = _index(sample, "correct_label")
    trusted = unknown not in (stereotyped, anti) and (stereotyped, anti) != (0, 1)
    return {
        "axis": "bias_and_truth",
        "scorer": "bias",
        "category": sample["category"],
        "choices": [sample[f"answer_choice_{n}"] for n in range(3)],
        "answers": [LETTERS[unknown]],
        "wrong": [LETTERS[stereotyped]] if trusted else [],
        "published": LETTERS[stereotyped],
    }


def _truth(sample: Row) -> Row:
    return {
        "axis": "bias_and_truth",
        "scorer": "truth",
        "answers": sample["correct_answers"],
        "wrong": sample["incorrect_answers"],
    }


def _choice(sample: Row) -> Row:
    listed = sample.get("choices_text")
    choices = (
        [text for _, text in _CHOICE.findall(listed)] if listed else [sample[f"option_{x}"] for x in "abcd"]
    )
    return {"axis": "capability", "scorer": "choice", "choices": choices, "answers": [sample["reference"]]}


_TASKS: dict[str, Callable[[Row], Row]] = {
    "safety_refusal": _refusal,
    "safety_bias": _bias,
    "safety_truthfulness": _truth,
    "classification": _choice,
}
