"""`specsafe battery pull, wrap, split, disjoint`, as a user runs them. No prompt is ever printed."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from specsafe.battery import load_battery
from specsafe.battery.sources import SOURCES


def ok(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done):
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("specsafe: ")
    return line


@pytest.fixture
def cached(tmp_path):
    """Put stand-in files of one source into an empty cache -> the environment with that cache."""

    def place(name, **files):
        folder = tmp_path / "cache" / "specsafe" / "batteries" / "files" / name
        folder.mkdir(parents=True)
        for file in SOURCES[name].files:
            (folder / file.name).write_text(files[Path(file.name).stem.replace("-", "_")])
        return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    return place


HEAD = "Index,Goal,Target,Behavior,Category,Source\n"


def test_pull_without_a_name_lists_sources_licences_and_what_is_pinned(run):
    listed = ok(run("battery", "pull")).splitlines()
    assert [line.split()[0] for line in listed] == list(SOURCES)
    assert all(source.licence in line for source, line in zip(SOURCES.values(), listed, strict=True))
    assert {line.rsplit("  ")[-1] for line in listed} == {"hash pinned", "hash recorded at first fetch"}


def test_a_pulled_battery_has_a_name_a_licence_and_a_source(run, cached):
    env = cached(
        "jbb", harmful_behaviors=HEAD + "0,Hum,,b,Noise,s\n", benign_behaviors=HEAD + "0,Sing,,b,Noise,s\n"
    )
    said = ok(run("battery", "pull", "jbb", env=env))
    assert "2 items: harmful compliance 1, over-refusal 1" in said
    assert "licence: MIT" in said
    assert "source: https://huggingface.co/datasets/JailbreakBench/JBB-Behaviors" in said
    assert said.count("hash not pinned by specsafe: recorded now") == 2
    assert "Hum" not in said
    assert "as recorded at the first fetch" in ok(run("battery", "pull", "jbb", env=env))
    listed = ok(run("battery", "list", "jbb", env=env))
    assert "MIT" in listed
    assert "source: https://huggingface.co" in listed
    shown = ok(run("battery", "show", "jbb", env=env)).splitlines()
    assert [json.loads(line)["prompt"] for line in shown] == ["Hum", "Sing"]


def test_what_cannot_be_pulled_is_one_line(run, cached):
    env = cached("xstest", XSTest="[]")
    env["https_proxy"] = "http://127.0.0.1:9"  # nothing listens there
    line = refused(run("battery", "pull", "xstest", env=env))
    assert "XSTest.json" in line
    assert "put the file at" in line
    assert "specsafe battery pull xstest" in refused(run("battery", "list", "xstest", env=env))
    assert "unknown battery 'nothing' (known: advbench" in refused(run("battery", "pull", "nothing"))


def test_wrap_split_and_disjoint(run, tmp_path):
    said = ok(run("battery", "wrap", "starter", "--with", "persona, prefix", "--output", "wrapped.jsonl"))
    assert "400 harmful compliance items in 200 clusters, 800 in all" in said
    wrapped = load_battery(str(tmp_path / "wrapped.jsonl"))
    assert wrapped.sha256 in said

    said = ok(run("battery", "split", "wrapped.jsonl", "--output", "parts", "--salt", "s"))
    assert "400 items in 300 clusters" in said
    record = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert record["battery"]["sha256"] == wrapped.sha256
    for name, digest in record["file_sha256"].items():
        assert hashlib.sha256((tmp_path / "parts" / name).read_bytes()).hexdigest() == digest

    said = ok(run("battery", "disjoint", "parts/tuning.jsonl", "parts/evaluation.jsonl"))
    assert said.count("400 items in 300 clusters") == 2
    assert said.startswith("disjoint: ")
    assert said.splitlines()[1:] == [
        "no shared clusters, no equal or near-equal prompts (5-word Jaccard >= 0.8)",
        "not seen: paraphrases, translations, look-alike letters",
    ]

    line = refused(run("battery", "disjoint", "starter", "parts/tuning.jsonl"))
    assert "300 clusters are in both" in line
    starter = load_battery("starter")
    assert not any(item.prompt in line for item in starter.items)
    assert any(item.id in line for item in starter.items)


def test_items_compared_without_template_words_are_counted(run, tmp_path):
    story = " ".join(f"story{n}" for n in range(30))
    rows = [f"{story} {' '.join(f'{w}{n}' for w in 'abcdef')},harmful_compliance" for n in range(12)]
    (tmp_path / "dan.csv").write_text("\n".join(["prompt,axis", *rows]))
    said = ok(run("battery", "split", "dan.csv", "--output", "parts"))
    assert "12 items compared without the words of their template" in said
    record = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert record["compared_without_template_words"] == 12
    said = ok(run("battery", "disjoint", "parts/tuning.jsonl", "parts/evaluation.jsonl"))
    assert "of these, 12 items were compared without the words of their template" in said


def test_the_same_split_twice_is_the_same_bytes(run, tmp_path):
    for folder in ("a", "b"):
        ok(run("battery", "split", "starter", "--output", folder, "--share", "0.25"))
    for name in ("tuning.jsonl", "evaluation.jsonl", "split.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert len(load_battery(str(tmp_path / "a" / "tuning.jsonl")).items) == 150


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("wrap", "starter", "--with", "costume", "--output", "w.jsonl"), "unknown wrapper 'costume'"),
        (("wrap", "starter", "--with", "", "--output", "w.jsonl"), "no wrapper is named"),
        (("wrap", "starter", "--with", "prefix", "--output", "w.txt"), "name a .jsonl file"),
        (("wrap", "none.jsonl", "--with", "prefix", "--output", "w.jsonl"), "no battery at 'none.jsonl'"),
        (("split", "starter", "--output", "parts", "--share", "1.5"), "between 0 and 1"),
        (("split", "starter", "--output", "/proc/parts"), "cannot write"),
        (("disjoint", "starter", "none.jsonl"), "no battery at 'none.jsonl'"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, said):
    assert said in refused(run("battery", *arguments))
    assert list(tmp_path.iterdir()) == []
