"""From the ledger to the result: score, pair, find forks, bound, control, decide. Reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from specsafe import __version__
from specsafe.battery import AXES, Axis, Item, axis_label
from specsafe.engines import AnswersArm, Failure
from specsafe.errors import UserError
from specsafe.scoring import BESIDE, SCORERS, UNSCORED
from specsafe.screen.config import ScreenConfig
from specsafe.screen.controls import sensitivity, stand_ins, substitution_control
from specsafe.screen.exactness import judge_exactness
from specsafe.screen.forks import compare
from specsafe.screen.gates import Harmed, Settled, judge_gate, with_differences
from specsafe.screen.headline import headline
from specsafe.screen.pairs import Labels, Outcomes, by_scorer, make_pairs
from specsafe.screen.plan import RERUN
from specsafe.screen.result import (
    ArmSummary,
    Contrast,
    Exactness,
    ExactnessResult,
    FailedItem,
    Gate,
    RetriedItem,
    ScorerRates,
    ScreenResult,
    TaisAsPublished,
    Verdict,
    worst,
)
from specsafe.screen.tais import as_published
from specsafe.stats import Proportion, Ratio, SpeedUp, paired_rate_ratio, proportion, ratio_of_sums
from specsafe.study.answers import Answer, Answers
from specsafe.study.ledger import Ledger


def analyze(ledger: Ledger, *, demonstration: bool = False) -> ScreenResult:
    """The result of a screen whose answers are in the ledger. Scores that are missing are added to it."""
    config = ScreenConfig.model_validate(ledger.config())
    items, arms = ledger.items(), ledger.arms()
    samples = {role: ledger.answers(arm["id"], arm["replicate"]) for role, arm in arms.items()}
    labels = Labels(ledger)
    failures = {role: ledger.failures(arm["id"], arm["replicate"]) for role, arm in arms.items()}
    settled = {role: Settled(samples[role].keys(), {f.item for f in failures[role]}) for role in arms}
    asked = _axes_asked(items, settled)
    outcomes = _outcomes(labels, asked, items, samples)
    void = _void(arms)
    gates = [_gate(axis, items, outcomes[axis], settled, labels, config, void) for axis in asked]
    gates = with_differences(gates, config.alpha)
    exactness = _exactness(items, samples, config, arms)
    verdict = _overall(gates, exactness)
    not_asked = [axis_label(a) for a in AXES if a not in asked]
    return ScreenResult(
        study=ledger.study,
        version=__version__,
        battery=config.battery,
        battery_sha256=str(ledger.battery_sha256()),
        battery_about=ledger.resolved().get("battery", {}),
        axes_not_asked=not_asked,
        margin=config.margin,
        alpha=config.alpha,
        quick=config.quick,
        demonstration=demonstration,
        verdict=verdict,
        headline=headline(verdict, gates, exactness, not_asked, config),
        gates=gates,
        exactness=exactness,
        tais=_tais(items, samples, outcomes, asked),
        arms=[_arm(role, arm, samples[role], items, failures[role]) for role, arm in arms.items()],
        speed_up=_speed_up(samples) if config.baseline == "decode" else None,
        scorers={a: [SCORERS[s].id for s in by_scorer(i for i in items if i.axis == a)] for a in asked},
        compared_scorers=_beside(items, samples, labels),
        resolved={k: v for k, v in ledger.resolved().items() if k != "battery"},
        events=ledger.events(),
    )


def _axes_asked(items: Sequence[Item], settled: Mapping[str, Settled]) -> list[Axis]:
    """Axes on which both arms answered or failed; an axis that one alone knows of is an error."""
    asked: list[Axis] = []
    target, speculative = ({*settled[r].answered, *settled[r].failed} for r in ("target", "speculative"))
    for axis in AXES:
        on = {i.id for i in items if i.axis == axis}
        if on & target & speculative:
            asked.append(axis)
        elif on & (target | speculative):
            raise UserError(
                f"no item of {axis_label(axis)} is answered by both arms ({len(on & target)} target, {len(on & speculative)} speculative)",
                "give both arms the same items",
            )
    if not asked:
        raise UserError(
            "no item is answered by both arms", "check that item ids or prompts match the battery's"
        )
    return asked


def _outcomes(
    labels: Labels, axes: Sequence[Axis], items: Sequence[Item], samples: Mapping[str, Answers]
) -> dict[Axis, dict[str, Outcomes]]:
    """Axis -> role -> outcomes."""
    return {
        axis: {
            role: labels.outcomes(axis, [i for i in items if i.axis == axis], answered)
            for role, answered in samples.items()
        }
        for axis in axes
    }


def _gate(
    axis: Axis,
    items: Sequence[Item],
    outcomes: Mapping[str, Outcomes],
    settled: Mapping[str, Settled],
    labels: Labels,
    config: ScreenConfig,
    void: str | None,
) -> Gate:
    """Controls and sensitivity are of the very items that the gate decides on."""
    on = [i for i in items if i.axis == axis]
    rule = {"margin": config.margin, "alpha": config.alpha}
    target, speculative = outcomes["target"], outcomes["speculative"]
    decided = [i for i in on if i.id in target and i.id in speculative]
    shared = {i.id: target[i.id] for i in decided}
    harmed = stand_ins(axis, decided, labels)
    sizes = sensitivity(decided, shared, harmed, **rule)
    controls = {"substitution": Harmed(*substitution_control(decided, shared, harmed, sizes, **rule))}
    if axis == "harmful_compliance":
        doses = [role for role, _ in config.doses]
        for role in ("prefill", *doses):
            if role in outcomes:
                required = role not in doses[:-1]
                controls[role] = Harmed(len(outcomes[role]), outcomes[role], required)
    roles = {"baseline": "target", "treatment": "speculative", "replicate": "replicate"}
    return judge_gate(
        axis,
        on,
        target,
        speculative,
        **rule,
        replicate=outcomes.get("replicate"),
        void=void,
        smoke=config.quick,
        controls=controls,
        sizes=sizes,
        settled={name: settled[role] for name, role in roles.items() if role in settled},
    )


def _void(arms: Mapping[str, dict[str, Any]]) -> str | None:
    """Why the baseline cannot be trusted: the replicate arm did not run what the target arm ran."""
    target, replicate = arms["target"]["fingerprint"], arms.get("replicate", {}).get("fingerprint")
    if replicate is None or target is None or arms["target"]["id"] != arms["replicate"]["id"]:
        return None
    differing = sorted(k for k in {*target, *replicate} if target.get(k) != replicate.get(k))
    return f"target and replicate differ in {', '.join(differing)}" if differing else None


def _hottest(arms: Mapping[str, dict[str, Any]], config: ScreenConfig) -> float | None:
    """The higher temperature of target and speculative arm; None where a recording does not say its own."""
    said = {
        role: (arms[role]["fingerprint"] or {}).get("temperature")
        if isinstance(arm, AnswersArm)
        else arm.temperature
        for role, arm in (("target", config.target), ("speculative", config.speculative))
    }
    known = [t for t in said.values() if t is not None]
    return max(known) if len(known) == len(said) else None


def _exactness(
    items: Sequence[Item],
    samples: Mapping[str, Answers],
    config: ScreenConfig,
    arms: Mapping[str, dict[str, Any]],
) -> ExactnessResult:
    target = samples["target"]
    contrasts: dict[str, Contrast] = {
        role: compare(role, items, target, samples[role], samples.get(RERUN.get(role, "")))
        for role in ("speculative", "width", "replicate", "leak")
        if role in samples
    }
    leak = contrasts.pop("leak", None)
    return judge_exactness(
        contrasts,
        claims_lossless=config.speculative.lossless,
        temperature=_hottest(arms, config),
        leak=leak,
    )


def _overall(gates: Sequence[Gate], exactness: ExactnessResult) -> Verdict:
    """Every gate must pass, and a rule that claims to change nothing must not be caught changing it."""
    verdicts = [g.verdict for g in gates]
    if exactness.claims_lossless and exactness.verdict is Exactness.NOT_EXACT:
        verdicts.append(Verdict.FAIL)
    return worst(verdicts)


def _tais(
    items: Sequence[Item],
    samples: Mapping[str, Answers],
    outcomes: Mapping[Axis, Mapping[str, Outcomes]],
    axes: Sequence[Axis],
) -> TaisAsPublished:
    target, speculative = samples["target"], samples["speculative"]
    same = {
        i.id: target[i.id].text_sha256 == speculative[i.id].text_sha256
        for i in items
        if i.id in target and i.id in speculative
    }
    pairs = [
        pair
        for axis in axes
        for pair in make_pairs(
            [i for i in items if i.axis == axis], outcomes[axis]["target"], outcomes[axis]["speculative"]
        )
    ]
    return as_published(pairs, same, proportion(sum(same.values()), len(same)))


def _arm(
    role: str, arm: Mapping[str, Any], answers: Answers, items: Sequence[Item], failures: Sequence[Failure]
) -> ArmSummary:
    drafting = {i: a for i, a in answers.items() if a.drafted is not None and a.accepted is not None}
    acceptance: dict[str, Ratio] = {}
    for axis in (*AXES, None):
        chosen = [drafting[i.id] for i in items if i.id in drafting and axis in (None, i.axis)]
        if chosen:
            acceptance[axis or "all"] = ratio_of_sums(
                [a.accepted or 0 for a in chosen], [a.drafted or 0 for a in chosen]
            )
    tokens = [a.tokens for a in answers.values() if a.tokens is not None]
    return ArmSummary(
        role=role,
        arm=arm["id"],
        replicate=arm["replicate"],
        planned=arm["planned"],
        answered=len(answers),
        proved=sum(a.proved for a in answers.values()),
        failed=[FailedItem(item=f.item, reason=f.reason, tries=f.tries) for f in failures],
        retried=[
            RetriedItem(item=i, reasons=json.loads(a.failed_attempts))
            for i, a in sorted(answers.items())
            if a.failed_attempts
        ],
        config=arm["config"],
        fingerprint=arm["fingerprint"],
        tokens=sum(tokens) if tokens else None,
        acceptance=acceptance,
        accepted_at=_accepted_at(answers),
    )


def _accepted_at(answers: Answers) -> list[Proportion]:
    """Rounds in which at least 1, 2, … draft tokens were accepted; empty where the stack does not say."""
    told = [a for a in answers.values() if a.rounds and a.accepted_at]
    rows = [json.loads(a.accepted_at or "[]") for a in told]
    rounds = sum(a.rounds or 0 for a in told)
    sums = [sum(column) for column in zip_longest(*rows, fillvalue=0)]
    return [proportion(k, rounds) for k in sums]


def _speed_up(samples: Mapping[str, Answers]) -> SpeedUp | None:
    """Tokens a second, prefill included, of the speculative arm over the target, on the items both timed."""
    target, speculative = samples["target"], samples["speculative"]
    timed = [i for i in target if i in speculative and _seconds(target[i]) and _seconds(speculative[i])]

    def rates(answers: Answers) -> tuple[list[float], list[float]]:
        return [float(answers[i].tokens or 0) for i in timed], [_seconds(answers[i]) for i in timed]

    return paired_rate_ratio(rates(speculative), rates(target))


def _seconds(answer: Answer) -> float:
    """Prefill and decoding time; 0 where the engine did not say."""
    return (answer.prefill_seconds or 0.0) + answer.seconds if answer.seconds and answer.tokens else 0.0


def _beside(items: Sequence[Item], samples: Mapping[str, Answers], labels: Labels) -> list[ScorerRates]:
    """What other scorers say of the items that both arms answered; what they cannot decide is left out."""
    target, speculative = samples["target"], samples["speculative"]
    rates: list[ScorerRates] = []
    for axis in AXES:
        both = [i for i in items if i.axis == axis and i.id in target and i.id in speculative]
        for own, group in by_scorer(both).items():
            for scorer, label in BESIDE[own]:
                before, after = (labels.labels(scorer, group, a) for a in (target, speculative))
                decided = [
                    (x, after[i]) for i, x in before.items() if i in after and UNSCORED not in (x, after[i])
                ]
                rates.append(
                    ScorerRates(
                        scorer=SCORERS[scorer].id,
                        axis=axis,
                        label=label,
                        baseline=proportion(sum(x == label for x, _ in decided), len(decided)),
                        treatment=proportion(sum(y == label for _, y in decided), len(decided)),
                    )
                )
    return rates
