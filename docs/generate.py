"""Write docs/reference/*.md and docs/figures/house.svg from the code itself: `python docs/generate.py`.

tests/test_docs.py fails where the committed files differ from what this gives. What a field means stands in
docs/fields.yaml unless the model says it; a field that nobody explains is an error here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from house import house_figure
from tables import Lines, Schema, code, fields, table, texts
from typer.main import get_command

from specsafe.battery import axis_label, readers
from specsafe.battery.items import AXES, EXPECTATION, SCORERS_OF
from specsafe.battery.sources import SOURCES
from specsafe.battery.wrap import WRAPPERS
from specsafe.cli.main import app
from specsafe.decoding.named import RULE_FACTS
from specsafe.engines import arms, recorded_lines
from specsafe.engines.arm_rules import key_of
from specsafe.models.catalogue import CATALOGUE
from specsafe.report.envelope import SCHEMA, json_schema
from specsafe.report.junit import _ELEMENT as JUNIT
from specsafe.screen.decide import most_passing, smallest_caught
from specsafe.screen.result import EXIT_CODE, SEVERITY

DOCS = Path(__file__).parent
AUDIT_CODES = {
    0: "Every answer is exact, or leaves the target at a near tie only.",
    2: "Something to mend, told in one line; what was audited is kept.",
    3: "An answer leaves the target at a larger gap than a near tie: the target alone would not have said it.",
    4: "Nothing could be audited.",
    5: "Some answers could not be audited, or clearly more leave the target than its own answers do; no larger gap.",
    6: "The target's own answers leave it by more than 1 nat: it contradicts itself.",
}
NOTE = "<!-- Written by `python docs/generate.py` from the code. Do not edit. -->"


def generated() -> dict[Path, str]:
    """Path below docs/ -> text of every generated file."""
    pages = {
        "cli": cli_page,
        "arms": arms_page,
        "batteries": batteries_page,
        "result": result_page,
        "exit-codes": exit_codes_page,
        "sizes": sizes_page,
    }
    files = {Path("reference", f"{name}.md"): page_text(page()) for name, page in pages.items()}
    return {**files, Path("figures", "house.svg"): house_figure(DOCS.parent)}


def page_text(lines: Lines) -> str:
    """A heading, the note that the page is generated, and the rest."""
    return "\n".join([next(lines), "", NOTE, "", *lines]).rstrip() + "\n"


# --- the command line -------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(words of the command, command, context) of the program and of everything below it."""
    root = get_command(app)
    context = root.context_class(root, info_name="specsafe", **root.context_settings)
    yield from _below(("specsafe",), root, context)


def _below(words: tuple[str, ...], command: Any, context: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    yield words, command, context
    for name, child in getattr(command, "commands", {}).items():
        yield from _below((*words, name), child, child.context_class(child, info_name=name, parent=context))


def cli_page() -> Lines:
    """Every command with its arguments, options, defaults and environment names."""
    yield "# Command line"
    yield "Every option can come from the environment; what stands on the command line goes first. `-h` or"
    yield "`--help` explains any command. What the exit codes mean: [exit codes](exit-codes.md)."
    yield ""
    for words, command, context in commands():
        if words == ("specsafe",):
            rows = [[code(p.opts[0]), p.help] for p in command.params]
            yield from table(["option", "what it does"], rows)
        elif getattr(command, "commands", None):
            yield from (f"## {' '.join(words)}", "", command.help or "", "")
        else:
            yield from _command(words, command, context)


def _command(words: Sequence[str], command: Any, context: Any) -> Lines:
    yield f"{'#' * len(words)} {' '.join(words)}"
    yield ""
    yield from (_paragraph(p) + "\n" for p in (command.help or "").split("\n\n"))
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = "".join(f" {p.name.upper()}" if p.required else f" [{p.name.upper()}]" for p in arguments)
    yield from ("```text", f"{' '.join(words)}{' [OPTIONS]' if options else ''}{usage}", "```", "")
    if arguments:
        rows = [[code(p.name.upper()), _type(p), _default(p), p.help or ""] for p in arguments]
        yield from table(["argument", "value", "default", "what it is"], rows)
    if options:
        rows = [_option_row(p, context) for p in options]
        yield from table(
            ["option", "value", "default", "what it does, and its name in the environment"], rows
        )


def _paragraph(text: str) -> str:
    return " ".join(text.split())


def _option_row(option: Any, context: Any) -> list[str]:
    names = ", ".join(map(code, option.opts))
    said = f"{option.help or ''}<br>{code(environment_name(option, context))}"
    return [names, _type(option), _default(option), said]


def environment_name(option: Any, context: Any) -> str:
    """The variable that sets an option."""
    return str(option.envvar or f"{context.auto_envvar_prefix}_{option.name.upper()}")


def _type(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    name = parameter.type_descriptor.annotation.__name__
    named = {"str": "text", "int": "whole number", "float": "number", "Path": "path"}.get(name, name)
    low, high = parameter.min, parameter.max
    limits = "" if low is None else f", at least {low:g}" if high is None else f", {low:g} to {high:g}"
    return f"{named}{limits}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False):
        return "off"
    value = parameter.default
    return "" if value in (None, "") else code(f"{value:.3g}" if isinstance(value, float) else str(value))


# --- arms -------------------------------------------------------------------------------------------------


def arms_page() -> Lines:
    """Every key of every kind of arm, and the keys of a line of recorded answers."""
    yield "# Arms"
    yield "An arm is one complete way to answer, written `kind=KIND,key=value,…`; a value with commas goes in double"
    yield "quotes. The id of an arm is the hash of all its keys and of the files behind it. The speculative arm takes"
    yield "over what it does not name from the target; it may differ from it in these keys alone:"
    yield ""
    for kind, model in arms._KINDS.items():
        if issubclass(model, arms.LiveArm):
            yield f"- `kind={kind}`: {_listed(model.speculation_fields)}"
    yield ""
    for kind, model in arms._KINDS.items():
        schema = model.model_json_schema()
        yield from (f"## kind={kind}", "", schema["description"], "")
        yield from fields(schema, f"arm {kind}")
    yield "## Acceptance rules of llama.cpp"
    yield ""
    rules = [[code(rule), "yes" if lossless else "no"] for rule, lossless in arms.LlamaCppArm.rules.items()]
    yield from table(["rule", "claims to be lossless"], rows=rules)
    yield "Any other rule is refused before a model loads: llama.cpp cannot apply it."
    yield ""
    yield "## Acceptance rules of the native engine"
    yield ""
    native = [
        [
            code(rule),
            "yes" if f.lossless else "no",
            ", ".join(code(key_of(n)) for n, default in f.numbers.items() if default is None),
            ", ".join(code(key_of(n)) for n, default in f.numbers.items() if default is not None),
        ]
        for rule, f in RULE_FACTS.items()
    ]
    yield from table(["rule", "lossless", "needs", "takes"], rows=native)
    yield "Their formulas and sources: [native engine](../native.md). Numbers are keys of the arm"
    yield '(`rule=typical,epsilon=0.2`) or stand in the text of the rule (`rule="typical:epsilon=0.2,delta=0.5"`, where'
    yield "`leak` is called `rate`); so do the changes of a method (`method=ssd-crs:control.tau=0.3`). `kind=native`,"
    yield "`openai` and `vllm` take both spellings."
    yield ""
    yield "## Models by name"
    yield ""
    rows = [
        [code(m.name), f"{m.bytes / 1e6:.0f} MB", m.licence, code(f"{m.sha256[:16]}…")]
        for m in CATALOGUE.values()
    ]
    yield from table(["name", "size", "licence", "SHA-256"], rows)
    yield "## A line of recorded answers"
    yield ""
    yield "One JSON object a line, with `item` or `prompt`, and `text` or `failed`. Other keys are an error."
    yield ""
    yield from fields(recorded_lines.Row.model_json_schema(), "recorded line")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(code, names[:-1])) + f" and {code(names[-1])}"


# --- batteries --------------------------------------------------------------------------------------------


def batteries_page() -> Lines:
    """Keys of an item, axes with their scorers, batteries by name, wrappers."""
    yield "# Battery formats and names"
    yield "How to use them: [batteries](../batteries.md)."
    yield ""
    yield "## Keys of an item"
    yield ""
    yield "The same in YAML, JSONL and CSV. Any other key is an error. A list is written with `|` between its entries"
    yield "where the format has none."
    yield ""
    keys = [k for k in texts()["battery row"] if k in readers._FIELDS]
    yield from table(["key", "what it is"], [[code(k), texts()["battery row"][k]] for k in keys])
    yield "## Axes and scorers"
    yield ""
    axes = [[code(a), EXPECTATION[a], ", ".join(map(code, SCORERS_OF[a]))] for a in AXES]
    yield from table(["axis", "the target ought to", "scorers, the first is the default"], axes)
    yield "## Batteries by name"
    yield ""
    yield "`specsafe battery pull NAME` fetches one. Nothing of them is shipped; their licences bind whoever uses them."
    yield "Pinned: the bytes must have the hash that specsafe knows. Recorded: the first fetch notes the hash, later"
    yield "ones must match it."
    yield ""
    head = ["name", "axes", "licence", "home", "version", "hash", "note"]
    yield from table(head, [_source_row(name) for name in SOURCES])
    yield "## Wrappers"
    yield ""
    yield "`specsafe battery wrap` puts the request where `{request}` stands."
    yield ""
    rows = [[code(name), " ".join(template.split())] for name, template in WRAPPERS.items()]
    yield from table(["wrapper", "text"], rows)


def _source_row(name: str) -> list[str]:
    source = SOURCES[name]
    axes = ", ".join(map(axis_label, source.axes))
    pinned = "pinned" if all(file.sha256 for file in source.files) else "recorded"
    return [code(name), axes, source.licence, f"<{source.home}>", source.version, pinned, source.note]


# --- the document -----------------------------------------------------------------------------------------


def result_page() -> Lines:
    """The JSON document, record by record, in the order in which they are met."""
    schema = json_schema()
    yield "# The JSON document"
    yield f"What `--json` prints and `result.json` holds: one object with `schema_version` `{SCHEMA}`. The JSON Schema is"
    yield "[screen-1.json](../schema/screen-1.json). Shares lie between -1 and 1; 0.03 is 3 points. A rate always has"
    yield "its counts `k` and `n` beside it; a field that may be `null` says so."
    yield ""
    yield from ("## Envelope", "", schema["description"], "")
    yield from fields(schema, "Envelope")
    for name in _in_order(schema):
        record = schema["$defs"][name]
        yield from (f"## {name}", "", record.get("description", ""), "")
        if "enum" in record:
            yield from (_listed(record["enum"]) + ".", "")
        else:
            yield from fields(record, name)


def _in_order(schema: Schema) -> list[str]:
    """Names of records, breadth first from the envelope."""
    found: list[str] = []
    waiting = [schema["properties"]]
    while waiting:
        for name in _references(waiting.pop(0)):
            if name not in found:
                found.append(name)
                waiting.append(schema["$defs"][name].get("properties", {}))
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rsplit("/", 1)[1]
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        yield from _references(part)


# --- exit codes -------------------------------------------------------------------------------------------


def exit_codes_page() -> Lines:
    """What a calling script may rely on."""
    yield "# Exit codes"
    yield "`specsafe screen` ends with the code of its verdict, `specsafe audit` with one of its own below. Every other"
    yield "command ends with 0 or 2; so do `--demo` and `--plan`. What each verdict means: [verdicts](../verdicts.md)."
    yield ""
    words = texts()["verdicts"]
    rows = [
        [str(number), str(v), words[str(v)], code(JUNIT[v]) if v in JUNIT else "passed"]
        for v, number in EXIT_CODE.items()
    ]
    others = [
        ["1", "-", "A fault of specsafe itself, with a traceback: please report it.", "-"],
        ["2", "-", "Something to mend, told in one line; finished answers are kept.", "-"],
    ]
    rows = sorted([*rows, *others], key=lambda row: int(row[0]))
    yield from table(["code", "verdict", "what it says", "case in JUnit"], rows)
    order = ", ".join(map(str, SEVERITY))
    yield f"The verdict of a screen is the worst of its gates, in the order {order}."
    yield "4, 5 and 6 are not passes."
    yield ""
    yield from ("## specsafe audit", "")
    yield from table(["code", "what it says"], [[str(n), text] for n, text in AUDIT_CODES.items()])
    yield "The first that holds of 6, 3, 4, 5 and 0. What an audit can say: [audit](../audit.md)."


# --- how many items ---------------------------------------------------------------------------------------


def sizes_page() -> Lines:
    """What n items can decide, by the rule itself."""
    yield "# How many items"
    yield "From the decision rule itself, α = 0.05, items that are not clustered. `specsafe screen --plan` says the same of"
    yield "your battery. How likely a PASS is where nothing changed: [how often the verdict errs](../verdict.md#power)."
    yield ""
    for margin in (0.03, 0.05, 0.01):
        yield from (f"## Margin of {100 * margin:g} {'point' if margin == 0.01 else 'points'}", "")
        rows = [
            [f"{n:,}", _count(most_passing(n, margin, 0.05)), _count(smallest_caught(n, margin, 0.05))]
            for n in (50, 100, 200, 300, 500, 1000, 2000)
        ]
        yield from table(["items (n)", "most net flips with PASS", "fewest with FAIL"], rows)


def _count(number: int | None) -> str:
    return "not reachable" if number is None else f"{number:,}"


def stale_words() -> list[str]:
    """Lines of docs/fields.yaml that belong to no field."""
    schema = json_schema()
    known: dict[str, Any] = {name: record.get("properties", {}) for name, record in schema["$defs"].items()}
    known |= {"Envelope": schema["properties"], "verdicts": {str(v): None for v in EXIT_CODE}}
    known |= {f"arm {kind}": model.model_fields for kind, model in arms._KINDS.items()}
    known["battery row"] = dict.fromkeys(readers._FIELDS)
    known["recorded line"] = recorded_lines.Row.model_fields
    return [f"{r}: {k}" for r, words in texts().items() for k in words if k not in known.get(r, {})]


def main() -> None:
    """Write what differs, and say so."""
    for path, text in generated().items():
        place = DOCS / path
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            place.parent.mkdir(exist_ok=True)
            place.write_text(text, encoding="utf-8")
            print(f"wrote {place.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
