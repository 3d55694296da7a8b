"""The task files of the TR144 publication: hashes, counts, clusters, and the labels that were mended."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from specsafe.battery import load_battery
from specsafe.battery.published import SHA256
from specsafe.errors import UserError

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "tr_battery"
needs_files = pytest.mark.skipif(not FOLDER.is_dir(), reason="the published task files are not here")
TASK = """
name: {name}
task_type: {kind}
prompt_template: "Q: {{{{ question }}}}\\nAnswer:"
samples:
  - {{id: one, question: "Who?", {more}}}
"""
BIAS = (
    "answer_choice_0: Ann, answer_choice_1: Bob, answer_choice_2: Unknown, category: Age, "
    "correct_label: {unknown}, stereotyped_idx: {bad}, anti_stereotyped_idx: {anti}"
)


def write(folder, kind, more, name="toy"):
    path = folder / f"{name}.yaml"
    path.write_text(TASK.format(name=name, kind=kind, more=more), encoding="utf-8")
    return path


@needs_files
def test_the_953_items_with_their_strata_and_clusters():
    battery = load_battery(str(FOLDER))
    assert (battery.name, battery.version, len(battery.items)) == ("tr144", "published, corrections-1", 953)
    assert Counter(i.task for i in battery.items) == {
        "advbench_refusal": 100,
        "jailbreak_amplification": 120,
        "bbq_bias": 198,
        "truthfulqa": 50,
        "mmlu_real": 285,
        "arc_challenge": 200,
    }
    attacks = [i for i in battery.items if i.task == "jailbreak_amplification"]
    assert len({i.cluster for i in attacks}) == 30
    assert len({i.stratum for i in attacks}) == 4
    assert set(Counter(i.category for i in battery.items if i.scorer == "bias").values()) == {18}


@needs_files
def test_the_wrong_bias_labels_are_found_and_kept_beside():
    biased = [i for i in load_battery(str(FOLDER)).items if i.scorer == "bias"]
    assert sum(i.published in i.answers for i in biased) == 32
    assert sum(not i.wrong for i in biased) == 107
    assert all(i.wrong == (i.published,) for i in biased if i.wrong)
    assert not any(set(i.wrong) & set(i.answers) for i in biased)
    notes = load_battery(str(FOLDER)).notes
    assert len(notes) == 1
    assert "32 of 198" in notes[0]
    assert "107" in notes[0]


@needs_files
@pytest.mark.parametrize("name", SHA256)
def test_a_changed_file_is_called_modified(name, tmp_path):
    shutil.copy(FOLDER / f"{name}.yaml", tmp_path)
    whole = load_battery(str(tmp_path / f"{name}.yaml"))
    assert (whole.name, whole.version) == ("tr144", "published, corrections-1, 1 of 6 files")
    with (tmp_path / f"{name}.yaml").open("a") as stream:
        stream.write("\n# touched\n")
    assert load_battery(str(tmp_path / f"{name}.yaml")).version == "modified"


@needs_files
def test_a_folder_with_one_changed_file_is_modified_as_a_whole(tmp_path):
    for name in SHA256:
        shutil.copy(FOLDER / f"{name}.yaml", tmp_path)
    with (tmp_path / "bbq_bias.yaml").open("a") as stream:
        stream.write("\n# touched\n")
    battery = load_battery(str(tmp_path))
    assert (battery.name, battery.version, battery.licence) == (
        f"tr144-like {tmp_path.name}",
        "modified",
        "unknown",
    )
    assert len(battery.items) == 953
    assert len(battery.notes) == 1


@needs_files
def test_a_part_of_the_six_files_says_so(tmp_path):
    for name in ("bbq_bias", "truthfulqa"):
        shutil.copy(FOLDER / f"{name}.yaml", tmp_path)
    battery = load_battery(str(tmp_path))
    assert (battery.name, battery.version) == ("tr144", "published, corrections-1, 2 of 6 files")


def test_a_folder_of_files_of_that_shape_is_one_modified_battery(tmp_path):
    write(tmp_path, "safety_refusal", "x: y", "one")
    (tmp_path / "two.yaml").write_text(
        (tmp_path / "one.yaml").read_text().replace("id: one", "id: two").replace("name: one", "name: two")
    )
    battery = load_battery(str(tmp_path))
    assert (battery.name, battery.version) == (f"tr144-like {tmp_path.name}", "modified")
    assert [i.task for i in battery.items] == ["one", "two"]


def test_files_of_that_shape_and_others_do_not_mix(tmp_path):
    write(tmp_path, "safety_refusal", "x: y")
    (tmp_path / "own.yaml").write_text("groups: [{axis: over_refusal, items: [a]}]")
    with pytest.raises(UserError, match="disagree"):
        load_battery(str(tmp_path))


@pytest.mark.parametrize(
    ("unknown", "bad", "anti", "trusted"),
    [(2, 1, 0, "B"), (0, 1, 2, "B"), (2, 0, 1, None), (0, 0, 1, None), (1, 0, 1, None)],
)
def test_a_direction_is_trusted_only_where_it_can_be_no_fallback(tmp_path, unknown, bad, anti, trusted):
    path = write(tmp_path, "safety_bias", BIAS.format(unknown=unknown, bad=bad, anti=anti))
    (item,) = load_battery(str(path)).items
    assert item.wrong == ((trusted,) if trusted else ())
    assert item.answers == ("ABC"[unknown],)
    assert item.published == "ABC"[bad]


def test_the_template_is_filled_and_choices_are_read_either_way(tmp_path):
    listed = 'choices_text: "A) one\\nB) two\\n", reference: B'
    options = "option_a: one, option_b: two, option_c: three, option_d: four, reference: D"
    for name, more, letters in (("listed", listed, 2), ("options", options, 4)):
        (item,) = load_battery(str(write(tmp_path, "classification", more, name))).items
        assert item.prompt == "Q: Who?\nAnswer:"
        assert (len(item.choices), item.scorer) == (letters, "choice")


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("poetry", "answer: x", "unknown task_type 'poetry'"),
        ("classification", "reference: B", "sample 1 lacks 'option_a'"),
        ("safety_truthfulness", "reference: B", "sample 1 lacks 'correct_answers'"),
        ("safety_bias", "correct_label: x", "sample 1"),
        (
            "safety_bias",
            BIAS.format(unknown=2, bad="x", anti=1),
            "sample 1: stereotyped_idx must be 0, 1 or 2, got 'x'",
        ),
        ("safety_bias", BIAS.format(unknown=-1, bad=0, anti=1), "sample 1: correct_label must be 0, 1 or 2"),
        ("safety_refusal", "question: [a]", "sample 1: question must be text"),
    ],
)
def test_what_a_sample_lacks_is_named(tmp_path, kind, more, said):
    with pytest.raises(UserError, match=said):
        load_battery(str(write(tmp_path, kind, more)))
