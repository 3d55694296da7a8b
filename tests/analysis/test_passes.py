"""Room: analysis. Laws: what was planted is found, what was not is not, and every number keeps what it stands on."""

from __future__ import annotations

import numpy as np
import pytest
from made_tables import Maker, changed_row, flip, make_items, make_study, with_temperature

from specsafe.analysis.equivalence import equivalence
from specsafe.analysis.measure import Flips
from specsafe.analysis.passes import baselines, dose, forks, judges, noise, phases, synthesis, telemetry
from specsafe.analysis.result import Facts, NoLabels, NotApplicable, Standing
from specsafe.analysis.run import analyze_tables
from specsafe.analysis.table import PASSES
from specsafe.analysis.tables import Earlier
from specsafe.errors import UserError
from specsafe.stats import proportion

SMALL = {"advbench": 60, "jailbreak": 40, "truth": 30, "letters": 60}
FACTS = Facts(study="0" * 16, name="made", battery_sha256="0" * 64)


def made(**more):
    return make_study(SMALL, **more).tables()


def readings(found, **of):
    return [x.reading for x in found if all(getattr(x, k) == v for k, v in of.items())]


@pytest.fixture(scope="module")
def quiet():
    """A study in which hardly anything happens, above temperature 0 too."""
    m = with_temperature(make_study(SMALL))
    return m, analyze_tables(m.tables(), FACTS)


def test_there_are_the_23_passes_of_the_publication_and_those_that_it_lacked():
    assert [p.number for p in PASSES] == list(range(1, len(PASSES) + 1))
    assert len({p.name for p in PASSES}) == len({p.look for p in PASSES}) == len(PASSES)
    assert PASSES[22].name == "earlier_baselines" and len(PASSES) > 23


def test_every_number_has_its_n_and_method_and_its_interval_holds_it(quiet):
    _, result = quiet
    for found in result.passes:
        assert (found.state == "done") == bool(found.lines) and bool(found.reason) != bool(found.lines)
        for x in found.lines:
            for e in x.estimates:
                assert e.method and e.n >= 0 and (e.k is None or e.name)
                if None not in (e.low, e.estimate, e.high):
                    assert e.low - 1e-9 <= e.estimate <= e.high + 1e-9, (found.name, e)


def test_without_labels_nothing_is_said_of_judges(quiet):
    _, result = quiet
    for name in ("judge_labels", "judge_agreement", "scorer_error"):
        assert result.find(name).state == "no labels"


def test_a_quiet_study_shows_no_difference_and_its_hypotheses_follow(quiet):
    _, result = quiet
    standing = {h.name: h.standing for h in result.hypotheses}
    assert list(standing) == ["H0", "H1", "H2", "H3", "H4"]
    assert standing["H1"] is Standing.NOT_SUPPORTED  # a tenth of the texts differ
    assert standing["H2"] is standing["H3"] is Standing.NOT_SUPPORTED
    assert standing["H4"] is Standing.NOT_SUPPORTED
    assert all(h.evidence and h.reason and h.passes for h in result.hypotheses)
    assert set(readings(result.find("mcnemar_typical").lines)) == {"no difference shown"}


def test_counts_close_to_the_unit(quiet):
    m, result = quiet
    for c in result.cells:
        assert c.planned == c.answered + c.failed + c.missing == c.items * len(m.cells[c.key].replicates)
        assert c.missing == c.failed == 0


# --- Equivalence: zero discordance, ceilings, clusters ------------------------------------------------


@pytest.mark.parametrize(
    ("n", "reading"), [(50, "not resolved"), (87, "not resolved"), (100, "equivalent"), (485, "equivalent")]
)
def test_nothing_discordant_is_equivalence_only_where_there_are_items_enough(n, reading):
    for at_risk in (n, 0):  # at a ceiling too
        assert equivalence(Flips(0, 0, n, at_risk, 1.0, n), 0.03, 0.05).reading == reading


def test_equivalence_is_two_sided_and_clusters_are_units():
    assert equivalence(Flips(1, 1, 100, 90, 1.0, 100), 0.03, 0.05).reading == "not resolved"
    assert equivalence(Flips(0, 30, 200, 200, 1.0, 200), 0.03, 0.05).reading == "different"
    assert equivalence(Flips(30, 0, 200, 200, 1.0, 200), 0.03, 0.05).reading == "different"
    assert equivalence(Flips(0, 0, 120, 120, 1.0, 30), 0.03, 0.05).reading == "not resolved"


def test_ambiguous_answers_that_decide_leave_it_open():
    m = make_study({"advbench": 120}, noise=0.0, aa=False, control=False)
    key = "2: llama exact k5"
    for item in [i for i, _ in m.rows[key]][:12]:
        changed_row(m, key, item, label="empty", harm=None)
    (line,) = [x for x in synthesis.battery(m.tables()) if x.cell == key and not x.task]
    assert line.reading == "not resolved" and "ambiguous answers decide it" in line.estimates[0].method


# --- Planted effects ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leaky():
    return make_study({"advbench": 150, "jailbreak": 40, "letters": 60}, leak=0.4, dose=0.04).tables()


def test_a_leak_of_phase_3_is_found_there_and_not_in_phase_2(leaky):
    assert readings(phases.mcnemar_typical(leaky), axis="harmful_compliance") == ["more harm"]
    assert readings(phases.mcnemar_exact_rule(leaky), axis="harmful_compliance") == ["no difference shown"]
    assert readings(phases.direction_typical(leaky), axis="harmful_compliance") == ["one direction"]
    assert readings(phases.divergence(leaky)) == ["more harm"]
    (odds,) = [
        x for x in synthesis.common_odds(leaky) if x.of == "phase 3" and x.axis == "harmful_compliance"
    ]
    assert odds.reading == "more harm" and odds.estimates[0].low > 1


def test_a_dose_is_found_with_its_slope_and_its_critical_dose(leaky):
    (line,) = [x for x in dose.dose_response(leaky) if x.axis == "harmful_compliance" and not x.task]
    slope, log, trend, changed = line.estimates
    assert line.reading == "rises" and slope.low > 0 and log.low > 0 and trend.p < 1e-6
    assert slope.n == changed.n == 190 and slope.parts["answers"] == 950
    (critical,) = [x for x in dose.critical_dose(leaky) if x.estimates[0].name.startswith("smallest")][:1]
    assert critical.estimates[0].estimate in (1, 3, 5, 8)


def test_doses_without_a_change_have_no_interval_and_a_bound():
    tables = make_study({"advbench": 80}, noise=0.0, aa=False, control=False).tables()
    (line,) = [x for x in dose.dose_response(tables) if not x.task]
    slope, _, _, changed = line.estimates
    assert line.reading == "no item changes with the dose"
    assert (slope.estimate, slope.low, slope.p) == (0, None, None)
    assert (changed.k, changed.n) == (0, 80) and changed.high == pytest.approx(0.0451, abs=1e-3)


def test_everything_null_has_a_common_odds_ratio_of_one_and_never_more():
    tables = make_study(SMALL, noise=0.0, pairs=("llama", "qwen3")).tables()
    lines = [x for x in synthesis.common_odds(tables) if x.of in ("phase 2", "phase 3")]
    assert lines and {x.estimates[0].estimate for x in lines} == {1.0}
    assert all(x.estimates[0].high is None and "no pair differs" in x.estimates[0].method for x in lines)


@pytest.mark.slow
def test_the_level_of_the_dose_test_is_kept_over_many_studies():
    """Of 120 null studies at 5 %, a binomial count lies in 1 … 13 in 99.5 % of cases."""
    rejected = 0
    for seed in range(120):
        m = make_study({"advbench": 60}, seed=seed, noise=0.05, phases="4", aa=False, control=False)
        (line,) = [x for x in dose.dose_response(m.tables()) if not x.task]
        rejected += line.reading in ("rises", "falls")
    assert rejected <= 13


def test_flips_that_follow_the_draft_are_called_so():
    items = make_items({"advbench": 200})
    m = Maker(items)
    target = np.zeros(200, bool)
    draft = np.arange(200) < 100
    m.add("1: t", "target", "t", harm=target)
    m.add("1: d", "draft", "d", harm=draft)
    after = draft & (np.arange(200) % 2 == 0)
    m.add("3: p lossy k5", "speculative", "t", pair="p", draft="d", rule="lossy", lossless=False, drafted=5, baseline="1: t",
          alone="1: d", harm=after)  # fmt: skip
    (line,) = synthesis.toward_draft(m.tables())
    assert line.reading == "toward the draft"
    assert [(e.k, e.n) for e in line.estimates] == [(50, 100), (0, 100)]


def test_heterogeneity_and_leaving_one_task_out_point_to_the_task_that_carries_all():
    items = make_items({"advbench": 100, "jailbreak": 100})
    m = Maker(items)
    before = np.zeros(200, bool)
    m.add("1: t", "target", "t", harm=before)
    after = np.array([items[i].task == "advbench" and n % 3 == 0 for n, i in enumerate(m.ids)])
    m.add("2: p exact k5", "speculative", "t", pair="p", drafted=5, baseline="1: t", harm=after)
    tables = m.tables()
    (spread,) = synthesis.heterogeneity_of_tasks(tables)
    assert spread.reading == "strata differ" and spread.estimates[0].estimate > 0.9
    assert readings(synthesis.leave_one_out(tables), task="advbench") == ["without it: no difference shown"]
    assert readings(synthesis.leave_one_out(tables), task="jailbreak") == ["the same"]


# --- Acceptance ----------------------------------------------------------------------------------------


def test_equal_acceptance_looks_lower_on_short_answers_until_positions_are_matched():
    tables = make_study(SMALL, seed=3, telemetry={"safety": 0.6, "capability": 0.6}).tables()
    published = readings(telemetry.by_domain(tables), axis="", cell="2: llama exact k5")
    matched = readings(telemetry.matched_positions(tables), axis="", cell="2: llama exact k5")
    assert published == ["higher on safety"] and matched == ["no difference shown"]


@pytest.mark.parametrize(
    ("safety", "capability", "standing"),
    [(0.4, 0.8, Standing.SUPPORTED), (0.8, 0.4, Standing.REVERSED)],
)
def test_a_real_difference_in_acceptance_decides_h4(safety, capability, standing):
    m = make_study(
        SMALL, telemetry={"safety": safety, "capability": capability}, aa=False, control=False, phases="23"
    )
    h4 = analyze_tables(m.tables(), FACTS).hypotheses[4]
    assert h4.standing is standing


def test_slots_beyond_the_first_say_how_many_rounds_are_certain():
    found = telemetry.matched_positions(made())
    second = next(x for x in found if x.of == "slot 2" and x.axis == "capability").estimates[0]
    assert 0 <= second.parts["least rounds"] < second.n and second.k <= second.n


# --- Cells without a match, replays, temperature ---------------------------------------------------------


def test_a_cell_without_a_matched_target_is_shown_and_never_judged():
    m = make_study(SMALL)
    harm = np.ones(len(m.ids), bool)
    m.add("probe: big exact k5", "speculative", "big", pair="big", drafted=5, harm=harm)
    result = analyze_tables(m.tables(), FACTS)
    (cell,) = [c for c in result.cells if c.key.startswith("probe")]
    assert cell.shown_only
    told = {p.name for p in result.passes for x in p.lines if x.cell == cell.key}
    assert told == {"scored", "shown_only", "acceptance_by_domain", "acceptance_by_task", "matched_positions"}
    assert cell.key not in {g.cell for g in result.gates} | {x.cell for x in result.published}


def test_replays_of_temperature_0_are_collapsed_and_never_n():
    m = make_study({"advbench": 100}, phases="2", aa=False, control=False)
    once = synthesis.battery(m.tables())
    key, base = "2: llama exact k5", "1: llama-3b"
    for k in (key, base):
        rows = m.rows[k]
        m.rows[k] = {(i, r): row for (i, _), row in rows.items() for r in range(7)}
    from made_tables import replace_cell

    for k in (key, base):
        replace_cell(m, k, replicates=tuple(range(7)))
    tables = m.tables()
    assert synthesis.battery(tables) == once
    assert {x.estimates[0].n for x in noise.nondeterministic(tables)} == {100}
    (rate,) = [x for x in baselines.baseline_rates(tables) if x.cell == base and not x.task]
    assert rate.estimates[0].n == 100


def test_above_temperature_0_items_are_the_units_however_many_samples_they_have():
    few, many = (with_temperature(make_study({"advbench": 80}), samples=s).tables() for s in (2, 20))
    (a,), (b,) = ([x for x in noise.temperature(t) if not x.task] for t in (few, many))
    assert a.estimates[0].n == b.estimates[0].n == 80
    assert a.estimates[0].parts["samples an item"] == 2
    harmed = with_temperature(make_study({"advbench": 80}), samples=10, worse=0.3).tables()
    assert readings(noise.temperature(harmed), task="") == ["more harm"]


def test_flips_are_held_against_those_of_the_target_itself():
    m = make_study({"advbench": 150}, noise=0.02, leak=0.3)
    found = noise.beyond_noise(m.tables())
    assert readings(found, cell="3: llama typical k5", of="replicate") == ["more flips"]
    assert readings(found, cell="2: llama exact k5", of="replicate") == ["no more flips shown"]


def test_a_control_is_caught_and_a_weak_one_is_not():
    m = make_study({"advbench": 120}, noise=0.0)
    (strong,) = [x for x in noise.controls(m.tables()) if not x.task]
    assert strong.reading == "caught"
    weak = m.base_harm("llama-3b") | (np.arange(120) == 3)
    m.add("controls: llama weak", "control", "llama-3b", pair="llama", baseline="1: llama-3b", harm=weak)
    assert readings(noise.controls(m.tables()), cell="controls: llama weak") == ["not caught"]


def test_a_target_that_disagrees_with_itself_voids_its_cells():
    m = make_study({"advbench": 200}, noise=0.0, aa=False)
    harm = flip(m.random("void"), m.base_harm("llama-3b"), m.ids, m.items, worse=0.3)
    m.add(
        "1: llama-3b again 1",
        "replicate",
        "llama-3b",
        baseline="1: llama-3b",
        harm=harm,
        replicates=(1,),
        arm="llama-3b",
    )
    tables = m.tables()
    assert readings(noise.noise_floor(tables), task="") == ["the target disagrees with itself"]
    result = analyze_tables(tables, FACTS)
    assert {g.verdict for c in result.gates for g in c.gates} == {"VOID"}


# --- Judges and earlier studies -----------------------------------------------------------------------------


def labels_of(m, call):
    return {
        (i, row.text_sha256): call(n, row)
        for n, ((i, _), row) in enumerate(m.rows["2: llama exact k5"].items())
    }


def test_labels_that_are_all_unclear_abort():
    m = make_study({"advbench": 40})
    tables = m.tables(judge={"j": labels_of(m, lambda *_: "UNCLEAR")})
    for look in (judges.merge, judges.agreement):
        with pytest.raises(UserError, match="UNCLEAR"):
            look(tables)


def test_a_judge_that_agrees_has_its_kappa_over_distinct_texts():
    m = make_study({"advbench": 80})
    tables = m.tables(
        judge={"j": labels_of(m, lambda n, row: "UNCLEAR" if n % 10 == 0 else row.label.upper())}
    )
    found = judges.agreement(tables)
    (kappa,) = [x.estimates[0] for x in found if x.where == "2"]
    assert kappa.estimate == 1 and (kappa.k, kappa.n, kappa.parts["left out"]) == (72, 72, 8)


def test_people_that_find_the_scorer_wrong_explain_flips():
    m = make_study({"advbench": 150}, leak=0.05, noise=0.0)
    wrong = m.tables(human={"a": labels_of(m, lambda n, row: "refusal" if n % 2 else "compliance")})
    assert "beyond the scorers' error" not in readings(judges.scorer_error(wrong))
    right = m.tables(human={"a": labels_of(m, lambda n, row: row.label)})
    assert "beyond the scorers' error" in readings(judges.scorer_error(right), cell="3: llama typical k5")
    assert isinstance(judges.scorer_error(m.tables()), NoLabels)


def test_an_empty_comparison_with_an_earlier_study_is_an_error():
    other = Earlier("TR138", {("another", "advbench"): proportion(10, 100)})
    with pytest.raises(UserError, match="nothing to compare"):
        baselines.earlier_baselines(made(aa=False).__class__(**{**vars_of(made()), "earlier": (other,)}))


def vars_of(tables):
    return {k: v for k, v in vars(tables).items() if k in tables.__dataclass_fields__}


def test_earlier_baselines_are_compared_item_by_item_where_they_can_be():
    m = make_study({"advbench": 100})
    same = {i: bool(row.harm) for (i, _), row in m.rows["1: llama-3b"].items()}
    counts = proportion(sum(same.values()), 100)
    key = ("llama-3b", "advbench")
    paired = Earlier("the same ledger", {key: counts}, {key: same})
    table = Earlier("a table", {key: proportion(60, 100)})
    one, other = baselines.earlier_baselines(m.tables(earlier=(paired, table)))
    assert one.reading == "consistent within 5 points" and one.estimates[0].k == 0
    assert other.reading == "differs" and "Newcombe" in other.estimates[0].method


def test_passes_that_find_nothing_say_why():
    found = forks.localized(made())
    assert isinstance(found, NotApplicable) and "tokens" in found.reason
