"""The documents say what the code says: references, commands, flags, links, examples and figures."""

import contextlib
import itertools
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from markdown.extensions.toc import slugify
from typer.main import get_command

from specsafe.battery import load_battery
from specsafe.battery.items import SCORERS_OF
from specsafe.cli.main import app
from specsafe.engines import parse_arm

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PROSE = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Programs beside specsafe whose flags the documents may name, and the file that knows them.
OTHERS = {f.name: f.read_text(encoding="utf-8") for f in [*ROOT.glob("bench/*.py"), ROOT / "Makefile"]}
ids = [str(p.relative_to(ROOT)) for p in PROSE]


@pytest.fixture(scope="module")
def generate():
    """docs/generate.py as a module."""
    sys.path.insert(0, str(DOCS))
    try:
        import generate
    finally:
        sys.path.remove(str(DOCS))
    return generate


def prose(page):
    return page.read_text(encoding="utf-8")


def examples(page):
    """Shell lines of the fences of a page, joined where they are continued, without comments."""
    for language, body in FENCE.findall(prose(page)):
        if language not in ("text", "python", "json"):
            for line in body.replace("\\\n", " ").splitlines():
                yield re.sub(r"(^|\s)#.*", "", line)


def invocations(page):
    """(arguments, is one of several) of every `specsafe …` in the fences of a page."""
    for line in examples(page):
        for part in re.split(r"\s*(?:;|&&|\|\||\s\|\s|\s[<>]\s.*)\s*", line):
            found = re.match(
                r"(?:- run: |code=0 )?(?:\.venv/bin/|\$\(BIN\)/)?specsafe(?: |$)(.*)", part.strip()
            )
            if found:
                yield from written_out(found[1])


def written_out(text):
    """`pull [NAME]` -> pull, pull NAME; `list|show` -> list ..., show ...: alternatives stand for a whole list."""
    optional = [
        ["", part[1:-1]] if part.startswith("[") else [part] for part in re.split(r"(\[[^\]]*\])", text)
    ]
    for parts in itertools.product(*optional):
        words = shlex.split("".join(parts))
        choices = [w.split("|") if re.fullmatch(r"[\w./-]+(\|[\w./-]+)+", w) else [w] for w in words]
        several = any(len(c) > 1 for c in choices)
        yield from ((list(chosen), several) for chosen in itertools.product(*choices))


def parse(arguments):
    """The parsed parameters of a command line; raises what the program would raise. Nothing runs."""
    command = get_command(app)
    context = command.make_context("specsafe", list(arguments))
    while getattr(command, "commands", None):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context.params


def command_of(arguments):
    """The command to which the first words of a command line lead. A word that a group does not know fails."""
    command = get_command(app)
    for word in arguments:
        if not getattr(command, "commands", None) or word.startswith("-"):
            break
        assert word in command.commands, f"no command {word}"
        command = command.commands[word]
    return command


def flags_of(arguments):
    """Every flag of the command to which the words lead, and of those below it."""
    known = {"--help"}
    waiting = [command_of(arguments)]
    while waiting:
        current = waiting.pop()
        waiting += getattr(current, "commands", {}).values()
        known |= {name for p in current.params for name in (*p.opts, *p.secondary_opts)}
    return known


def test_the_reference_is_what_the_code_gives(generate):
    for path, text in generate.generated().items():
        assert (DOCS / path).read_text(encoding="utf-8") == text, f"{path}: run python docs/generate.py"


def test_every_file_of_the_reference_is_generated(generate):
    kept = {p.relative_to(DOCS) for p in (DOCS / "reference").iterdir()}
    assert kept == {p for p in generate.generated() if p.parts[0] == "reference"}


def test_no_word_explains_a_field_that_is_gone(generate):
    assert generate.stale_words() == []


def test_the_environment_name_of_every_option_is_read(generate, monkeypatch):
    for _, command, context in generate.commands():
        for option in command.params:
            if option.param_type_name == "option":
                name = generate.environment_name(option, context)
                monkeypatch.setenv(name, "1")
                assert option.resolve_envvar_value(context) == "1", name
                monkeypatch.delenv(name)


def test_the_picture_of_the_house_shows_every_room(generate):
    figure = generate.generated()[Path("figures/house.svg")]
    for folder in (ROOT / "src" / "specsafe").glob("*/__init__.py"):
        assert f">{folder.parent.name}</text>" in figure


@pytest.mark.parametrize("page", PROSE, ids=ids)
def test_every_example_parses(page):
    for arguments, several in invocations(page):
        if several:  # an overview: the command is there, and so are its flags
            assert set(FLAG.findall(" ".join(arguments))) <= flags_of(arguments[:1])
            assert command_of(arguments).name == arguments[1]
        elif arguments:
            params = parse(arguments)
            arms = {
                role: params[role]
                for role in ("target", "speculative", "replicate", "width", "engine")
                if params.get(role) and "…" not in params[role]
            }
            target = parse_arm(arms["target"]) if arms.get("target") else None
            for text in arms.values():
                parse_arm(text, target)


@pytest.mark.parametrize("page", PROSE, ids=ids)
def test_every_command_and_flag_that_is_named_exists(page):
    text = FENCE.sub("", prose(page))
    everything = flags_of([])
    elsewhere = [source for name, source in OTHERS.items() if name in text]
    for span in CODE.findall(text):
        found = re.match(r"specsafe (.+)", span)
        named = [words for words, _ in written_out(found[1])] if found else [[]]
        for words in named:
            known = flags_of(words)
            for flag in FLAG.findall(span):
                assert flag in known or any(f'"{flag}"' in source for source in elsewhere) or foreign(span), (
                    span
                )
    for line in examples(page):
        for flag in FLAG.findall(line):
            assert flag in everything or foreign(line) or any(f'"{flag}"' in s for s in elsewhere), line


def foreign(text):
    """A line of another program."""
    return (
        re.match(
            r"\s*(?:- run: )?(?:pip|git|hf|inspect|lm-eval|mkdocs|vllm|llama-server|python -m (?:pytest|pip|venv)|pytest|ruff|make) ",
            text,
        )
        is not None
    )


@pytest.mark.parametrize("page", PROSE, ids=ids)
def test_no_internal_link_is_dead(page):
    text = FENCE.sub("", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", FENCE.sub("", prose(place)), re.MULTILINE)
            assert anchor in [slugify(h.replace("`", ""), "-") for h in heads], target


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = re.findall(r"[\w/-]+\.md", json.dumps(nav))
    assert sorted(named) == sorted(str(p.relative_to(DOCS)) for p in PAGES)


def test_the_verdict_lines_that_are_quoted_are_those_of_the_demonstration():
    from specsafe.report.terminal import summary
    from specsafe.screen.demo import demonstrate

    said = " ".join(summary(demonstrate()[0]).split())
    quoted = next(body for _, body in FENCE.findall(prose(DOCS / "index.md")) if body.startswith("PASS: "))
    assert " ".join(quoted.split()) in said


def test_every_scorer_that_an_item_may_name_is_explained():
    said = prose(DOCS / "batteries.md")
    assert all(f"| `{name}` |" in said for names in SCORERS_OF.values() for name in names)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "yaml"])
def test_the_batteries_that_are_shown_can_be_read(suffix, tmp_path):
    begin = {"csv": "prompt,axis", "jsonl": '{"prompt"', "yaml": "name: "}[suffix]
    shown = next(body for _, body in FENCE.findall(prose(DOCS / "batteries.md")) if body.startswith(begin))
    path = tmp_path / f"mine.{suffix}"
    path.write_text(shown, encoding="utf-8")
    assert load_battery(str(path)).items


def test_the_recording_script_that_is_shown_records(tmp_path, monkeypatch):
    script = next(body for name, body in FENCE.findall(prose(DOCS / "index.md")) if name == "python")

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            choice = {
                "message": {"content": asked["messages"][0]["content"][::-1]},
                "finish_reason": "length",
            }
            reply = json.dumps({"choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    items = [{"id": "one", "prompt": "abc"}, {"id": "two", "prompt": "xyz"}]
    (tmp_path / "record.py").write_text(script, encoding="utf-8")
    address = f"http://127.0.0.1:{server.server_port}"
    with contextlib.closing(server.socket):
        done = subprocess.run(
            [sys.executable, "record.py", address, "out.jsonl"],
            cwd=tmp_path,
            input="\n".join(map(json.dumps, items)),
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rows == [
        {"item": "one", "text": "cba", "finish": "length"},
        {"item": "two", "text": "zyx", "finish": "length"},
    ]


@pytest.mark.parametrize("name", ["house", "verdict-error", "verdict-power"])
def test_figures_are_whole_and_load_nothing(name):
    text = (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.get("aria-label")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|href", text)
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text


def test_the_site_loads_no_font_and_no_script_from_elsewhere():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert settings["strict"] is True
    assert "extra_javascript" not in settings
    assert settings["extra_css"] == ["style.css"]
    assert not re.search(r"https?:|url\(|@import", (DOCS / "style.css").read_text(encoding="utf-8"))
    assert "analytics" not in settings.get("extra", {})
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]["dev"]
    assert "mkdocs-material" in dev
    assert "mkdocs-material==" in pins
