"""Protocols: the published counts come out of the factors, and what cannot be meant is refused by name."""

from pathlib import Path

import pytest
import yaml

from specsafe.battery import load_battery
from specsafe.errors import UserError
from specsafe.report.study_plan import derivation, plan_page
from specsafe.study.arms import make_arm
from specsafe.study.planning import answers_to_make, cells, counted_tasks, counts, gates, slots
from specsafe.study.protocol import merged, parse_protocol, read_protocol, read_variants

ROOT = Path(__file__).parents[2]
TR144 = ROOT / "protocols" / "tr144.yaml"
PUBLISHED = ROOT.parent / "shared" / "data" / "tr_battery"
SHIPPED = sorted(p for p in (ROOT / "protocols").glob("tr144*.yaml"))


def totals(protocol):
    return {c.name: c.total for c in counts(protocol)}


def document(path=TR144):
    """The file as it stands, without variants."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    found.pop("variants", None)
    return found


def small(**changes):
    """A protocol of two pairs on two tasks, with parts changed."""
    base = {
        "name": "small",
        "title": "a small study",
        "version": "1",
        "engines": {"ours": {"kind": "native", "max_tokens": 4}},
        "models": {"big": {"id": "big"}, "middle": {"id": "middle"}, "little": {"id": "little"}},
        "pairs": {
            "big+middle": {"target": "big", "draft": "middle"},
            "middle+little": {"target": "middle", "draft": "little"},
        },
        "rules": {
            "greedy": {"lossless": True, "keys": {"rule": "greedy"}},
            "rejection": {"lossless": True, "keys": {"rule": "rejection"}},
            "typical": {"lossless": False, "keys": {"rule": "typical"}},
        },
        "tasks": {
            "harm": {"items": 6, "axis": "harmful_compliance"},
            "sums": {"items": 4, "axis": "capability"},
        },
        "sets": {"all": {"tasks": ["harm", "sums"]}, "safety": {"tasks": ["harm"], "limits": {"harm": 5}}},
        "levels": {
            "pairs": ["big+middle", "middle+little"],
            "rule": ["greedy"],
            "drafted": [3],
            "dtype": ["float32"],
            "temperature": [0],
            "seed": [1],
            "samples": 1,
            "engine": "ours",
            "items": "all",
        },
        "phases": {
            "1": {"title": "alone", "runs": [{"arms": "alone"}, {"arms": "replicate"}]},
            "2": {"title": "exact", "runs": [{"arms": "speculative"}]},
            "4": {
                "title": "dose",
                "runs": [{"arms": "speculative", "rule": ["typical"], "drafted": [1, 3], "items": "safety"}],
            },
        },
        "blocks": {},
        "totals": {"core": ["1", "2", "4"]},
    }
    return parse_protocol(merged(base, changes), "small")


def planned(protocol):
    return {c.key: c for c in cells(protocol, counted_tasks(protocol))}


def test_the_planned_counts_are_the_published_ones():
    assert totals(read_protocol(TR144)) == {
        "1": 4775,
        "2": 2865,
        "3": 2865,
        "4": 7050,
        "5": 0,
        "core": 17_555,
        "seeds": 25_560,
        "dtype": 12_780,
        "floor": 55_895,
        "temperature": 9_870,
        "stretch": 65_765,
    }


def test_the_executed_counts_are_the_published_ones():
    found = totals(read_protocol(TR144, "executed"))
    assert [found[n] for n in ("1", "2", "3", "4", "core")] == [4765, 2859, 2859, 6300, 16_783]
    assert [found[f"E{n}"] for n in range(1, 6)] == [4006, 4006, 4006, 24_036, 12_018]
    assert found["telemetry of the core"] == 12_018
    assert found["pair-cell"] == 4006
    assert found["expansion"] == 48_072
    assert found["matched expansion"] == 44_066
    assert found["total of the paper"] == 60_849
    assert found["total of the report"] == 64_855
    assert found["judged by a machine"] == 11_448


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"tasks": {"bbq_bias": {"items": 198}}}, {"1": 4765, "core": 17_555 - 10 - 6 - 6 - 30}),
        ({"levels": {"pairs": ["qwen2.5-3b+1.5b", "qwen2.5-1.5b+0.5b"]}}, {"1": 3 * 955, "2": 2 * 955}),
        ({"blocks": {"seeds": {"levels": {"seed": [1, 2, 3]}}}}, {"seeds": 38_340, "floor": 55_895 + 12_780}),
        ({"blocks": {"dtype": None}, "totals": {"floor": ["core", "seeds"]}}, {"stretch": 65_765 - 12_780}),
    ],
)
def test_every_count_follows_its_factors(changes, moved):
    found = totals(parse_protocol(merged(document(), changes), "changed"))
    assert {name: found[name] for name in moved} == moved


def test_no_published_count_is_written_down():
    text = TR144.read_text(encoding="utf-8").split("variants:", 1)
    for part in text:
        body = part.split("notes:", 1)[-1].split("engines:", 1)[-1]
        for number in (
            "4775",
            "2865",
            "7050",
            "17555",
            "25560",
            "12780",
            "55895",
            "9870",
            "65765",
            "48072",
            "44066",
        ):
            assert number not in body.replace(",", "").replace("_", "")


def test_the_counts_are_those_of_the_cells():
    for protocol in read_variants(TR144).values():
        found = planned(protocol).values()
        for name in protocol.places:
            asked = sum(len(c.items) * len(c.replicates) for c in found if c.where == name)
            assert asked == totals(protocol)[name]


def test_the_derivations_multiply_to_the_counts():
    counted = counts(read_protocol(TR144))
    sums = {c.name: c.total for c in counted}
    for c in counted:
        if not c.terms:
            continue
        expression = derivation(c, sums)
        for word in ("models", "pairs", "targets", "seeds", "num_speculative_tokens", "items"):
            expression = expression.replace(f" {word}", "")
        assert eval(expression.replace(",", "").replace("x", "*")) == c.total  # noqa: S307


def test_no_arm_is_called_typical_where_the_rule_in_force_is_lossless():
    for protocol in read_variants(TR144).values():
        for cell in planned(protocol).values():
            assert "typical" not in f"{cell.key} {cell.arm} {cell.rule}"
            assert cell.lossless
        assert any("rejection_sample_method=probabilistic is lossless" in n for n in protocol.notes)


def test_the_published_blocks_have_no_match_and_say_so():
    protocol = read_protocol(TR144, "executed")
    found = planned(protocol).values()
    assert {c.where for c in found if c.part == "speculative" and not c.baseline} == {
        "E1",
        "E2",
        "E3",
        "E4",
        "E5",
    }
    page = "\n".join(plan_page(protocol, counts(protocol), list(found)))
    assert "without a match, shown and never judged: 84 cells" in page
    assert "no replicate, no width, no control" in page


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published task files are not here")
def test_the_sizes_and_hashes_are_those_of_the_published_files():
    import hashlib

    protocol = read_protocol(TR144, "executed")
    for name, task in protocol.tasks.items():
        path = PUBLISHED / task.battery
        battery = load_battery(str(path))
        assert len(battery.items) == task.items, name
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(task.sha256)
        assert {i.axis for i in battery.items} == {task.axis}
        assert len({i.cluster for i in battery.items}) == (task.clusters or task.items)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_protocols_plan_and_close(path):
    for protocol in read_variants(path).values():
        found = cells(protocol, counted_tasks(protocol))
        assert sum(len(c.items) * len(c.replicates) for c in found) == sum(
            c.total for c in counts(protocol) if c.name in protocol.places
        )
        asked = answers_to_make(found)
        assert sum(map(len, asked.values())) <= sum(len(c.items) * len(c.replicates) for c in found)
        assert gates(protocol, found)


def test_arms_that_are_the_same_are_asked_once():
    found = planned(
        small(phases={"3": {"title": "", "runs": [{"arms": "speculative", "rule": ["typical"]}]}})
    )
    three, four = found["3: big+middle typical k3"], found["4: big+middle typical k3 [safety]"]
    assert three.arm == four.arm
    asked = answers_to_make(list(found.values()))
    assert len(asked[three.arm, 0]) == 10


def test_width_arms_of_two_pairs_with_one_target_are_one_arm():
    protocol = small(
        pairs={"middle+little": {"target": "big", "draft": "little"}},
        phases={"2": {"runs": [{"arms": "width"}]}},
    )
    found = [c for c in planned(protocol).values() if c.part == "width"]
    assert [c.arm for c in found] == ["big+middle width k3"] * 2
    assert all(c.lossless for c in found)


def test_what_is_held_against_what():
    found = planned(small())
    exact = found["2: big+middle greedy k3"]
    assert found[exact.baseline].key == "1: big"
    assert found[exact.alone].key == "1: middle"
    again = found["1: big again 1"]
    assert (again.part, again.arm, again.replicates, again.baseline) == ("replicate", "big", (1,), "1: big")
    assert found["1: middle"].part == "target"  # target of one pair and draft of the other
    assert found["1: little"].part == "draft"


def test_a_match_needs_the_same_stack():
    changed = {"other": {"title": "", "runs": [{"arms": "speculative"}], "levels": {"dtype": ["bfloat16"]}}}
    assert planned(small(blocks=changed))["other: big+middle greedy k3 bfloat16"].baseline == ""
    changed["other"]["runs"].append({"arms": "target"})
    cell = planned(small(blocks=changed))["other: big+middle greedy k3 bfloat16"]
    assert cell.baseline == "other: big bfloat16"


def test_a_match_answers_all_of_the_items():
    changed = {"1": {"runs": [{"arms": "target", "items": "safety"}]}}
    found = planned(small(phases=changed))
    assert found["2: big+middle greedy k3"].baseline == ""
    assert found["4: big+middle typical k3 [safety]"].baseline == "1: big [safety]"


def test_samples_are_replicates_above_temperature_0_alone():
    block = {"title": "", "runs": [{"arms": "target"}, {"arms": "replicate"}], "levels": {"samples": 3}}
    with pytest.raises(UserError, match="3 samples at temperature 0 would be one answer copied"):
        slots(small(blocks={"sampled": block}))
    block["levels"]["temperature"] = [0.7]
    found = planned(small(blocks={"sampled": block}))
    assert found["sampled: big T0.7"].replicates == (0, 1, 2)
    again = found["sampled: big T0.7 again 1"]
    assert again.replicates == (3, 4, 5)
    assert again.baseline == "sampled: big T0.7"


def test_a_restart_is_held_against_the_restarted_target():
    restart = {"title": "", "runs": [{"arms": "replicate"}, {"arms": "speculative", "again": 1}]}
    found = planned(small(phases={"1": {"runs": [{"arms": "alone"}]}}, blocks={"restart": restart}))
    cell = found["restart: big+middle greedy k3 again 1"]
    assert cell.replicates == (1,)
    assert found[cell.baseline].part == "replicate"
    assert cell.arm == found["2: big+middle greedy k3"].arm


def test_repeats_run_at_the_levels_of_the_block():
    found = planned(small(blocks={"seeds": {"title": "", "repeats": ["2", "4"], "levels": {"seed": [7, 8]}}}))
    keys = [k for k in found if k.startswith("seeds")]
    assert len(keys) == 2 * (2 + 2 * 2)
    assert "seeds/4: big+middle typical k1 s8 [safety]" in keys


def test_arms_are_made_as_the_engine_writes_them():
    protocol = small()
    for slot in slots(protocol):
        arm = make_arm(protocol, slot)
        assert arm.model == slot.model
        if slot.part == "speculative":
            assert (arm.draft, arm.rule, arm.num_speculative_tokens) == (slot.draft, slot.rule, slot.drafted)
            assert arm.lossless == slot.lossless
        else:
            assert not arm.speculative


def test_what_a_protocol_says_of_a_rule_must_be_what_the_engine_says():
    with pytest.raises(UserError, match="rule=typical is lossy, the protocol says otherwise"):
        planned(small(rules={"typical": {"lossless": True}}))


def test_a_server_without_an_address_is_named():
    protocol = read_protocol(TR144)
    with pytest.raises(UserError, match=r"arm llama3.2-3b: arm: name url=") as error:
        make_arm(protocol, slots(protocol)[0])
    assert "--arms" in error.value.hint


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"levels": {"pairs": ["no such"]}}, "no pair 'no such'"),
        ({"levels": {"seed": [1, 1]}}, "each once"),
        ({"levels": {"rule": None}}, "rule must have a default"),
        ({"pairs": {"big+middle": {"target": "huge"}}}, "no target 'huge'"),
        ({"sets": {"safety": {"limits": {"harm": 7}}}}, "within their items"),
        ({"totals": {"core": ["9"]}}, "no place or total before it '9'"),
        ({"phases": {"4": {"runs": [{"arms": "target", "rule": ["greedy"]}]}}}, "drafts nothing"),
        ({"phases": {"4": {"runs": [{"arms": "control"}]}}}, "belong together"),
        ({"phases": {"4": {"repeats": ["4"]}}}, "no earlier place '4'"),
        ({"blocks": {"1": {"title": "twice"}}}, "is a phase and a block"),
        ({"more": 1}, "more: no such key"),
        ({"tasks": {"sums": {"scorer": "refusal"}}}, "none of exact"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(changes, told):
    with pytest.raises(UserError, match=told):
        small(**changes)


def test_the_same_cell_twice_is_refused():
    with pytest.raises(UserError, match="is planned twice"):
        planned(small(phases={"2": {"runs": [{"arms": "speculative"}, {"arms": "speculative"}]}}))


@pytest.mark.parametrize("text", ["[1, 2]", "{", "name: x\nvariants: 3", ""])
def test_what_is_no_protocol_is_one_line(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        read_variants(path)


def test_a_protocol_is_hashed_by_what_it_says_and_not_by_how():
    base, same = small(), small(notes=[])
    assert base.sha256 == same.sha256
    assert small(plan={"margin": 0.05}).sha256 != base.sha256


def test_counting_needs_neither_batteries_nor_models(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    protocol = read_protocol(TR144)
    assert sum(len(c.items) for c in cells(protocol, counted_tasks(protocol))) == 65_765
