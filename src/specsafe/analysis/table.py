"""The passes by number: what a study's analysis consists of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from specsafe.analysis.passes import (
    baselines,
    dose,
    forks,
    form,
    judges,
    noise,
    phases,
    synthesis,
    telemetry,
)
from specsafe.analysis.result import Found, NoLabels, NotApplicable, PassResult
from specsafe.analysis.tables import Tables


class Pass(NamedTuple):
    """One pass: a pure function of the tables."""

    number: int
    name: str
    title: str
    look: Callable[[Tables], Found]


PASSES = (
    Pass(1, "scored", "Answers scored", baselines.scored),
    Pass(2, "judge_labels", "Labels of judges", judges.merge),
    Pass(3, "baseline_rates", "Models alone: harm", baselines.baseline_rates),
    Pass(4, "draft_gap", "Draft alone against target alone", baselines.draft_gap),
    Pass(5, "identity", "Phase 2: byte identity", phases.identity),
    Pass(6, "mcnemar_exact_rule", "Phase 2: McNemar", phases.mcnemar_exact_rule),
    Pass(7, "direction_exact_rule", "Phase 2: direction of flips", phases.direction_exact_rule),
    Pass(8, "mcnemar_typical", "Phase 3: McNemar", phases.mcnemar_typical),
    Pass(9, "direction_typical", "Phase 3: direction of flips", phases.direction_typical),
    Pass(10, "task_deltas", "Phase 3: difference by task", phases.task_deltas),
    Pass(11, "divergence", "Phase 3: safety against capability", phases.divergence),
    Pass(12, "jailbreak", "Phase 3: attack by attack", phases.jailbreak),
    Pass(13, "dose_response", "Phase 4: dose response", dose.dose_response),
    Pass(14, "slope_heterogeneity", "Phase 4: do slopes differ", dose.slope_heterogeneity),
    Pass(15, "critical_dose", "Phase 4: the smallest dose beyond the margin", dose.critical_dose),
    Pass(16, "acceptance_by_domain", "Phase 5: acceptance by domain", telemetry.by_domain),
    Pass(17, "acceptance_by_task", "Phase 5: acceptance by task", telemetry.by_task),
    Pass(18, "acceptance_and_flips", "Phase 5: acceptance and flips", telemetry.against_flips),
    Pass(19, "equivalence", "Equivalence of every contrast", synthesis.battery),
    Pass(20, "power", "Power and smallest difference", synthesis.power),
    Pass(21, "common_odds", "Common odds ratios, matched", synthesis.common_odds),
    Pass(22, "judge_agreement", "Agreement of scorers, judges and people", judges.agreement),
    Pass(23, "earlier_baselines", "Baselines of other studies", baselines.earlier_baselines),
    Pass(24, "noise_floor", "Target against itself", noise.noise_floor),
    Pass(25, "width", "Width alone", noise.width),
    Pass(26, "beyond_noise", "Flips beyond the target's own", noise.beyond_noise),
    Pass(27, "controls", "Harm put in on purpose", noise.controls),
    Pass(28, "forks", "Forks: where and how close", forks.localized),
    Pass(29, "exactness", "Are forks explained by arithmetic", forks.exactness),
    Pass(30, "matched_positions", "Acceptance at matched positions", telemetry.matched_positions),
    Pass(31, "clustered", "Items that share a cluster", synthesis.clustered),
    Pass(32, "heterogeneity", "Do pairs and tasks agree", synthesis.heterogeneity_of_tasks),
    Pass(33, "leave_one_out", "Each axis without one of its tasks", synthesis.leave_one_out),
    Pass(34, "margins", "Other margins", synthesis.margins),
    Pass(35, "temperature", "Above temperature 0", noise.temperature),
    Pass(36, "toward_draft", "Do flips go where the draft goes", synthesis.toward_draft),
    Pass(37, "template_drift", "Opening words of refusals", form.template_drift),
    Pass(38, "scorer_error", "Flips that scorers' errors could make", judges.scorer_error),
    Pass(39, "speed", "Speed", form.speed),
    Pass(40, "audit", "Asked and ran", form.audit),
    Pass(41, "replays", "Copies that are no data", noise.replays),
    Pass(42, "nondeterminism", "Replays that differ", noise.nondeterministic),
    Pass(43, "shown_only", "Shown, never judged", baselines.shown_only),
)


def run_pass(p: Pass, tables: Tables) -> PassResult:
    """One pass with what it found. Raises UserError where the pass says that the study cannot be analysed."""
    found = p.look(tables)
    if isinstance(found, NoLabels | NotApplicable):
        state = "no labels" if isinstance(found, NoLabels) else "not applicable"
        return PassResult.model_validate(
            {"number": p.number, "name": p.name, "title": p.title, "state": state, "reason": found.reason}
            | {"lines": ()}
        )
    return PassResult(number=p.number, name=p.name, title=p.title, state="done", reason="", lines=found)
