"""Results made by hand, with every statistic from the real functions: what the tests of the report render."""

from specsafe.screen.decide import decide
from specsafe.screen.forks import is_large, is_unknown
from specsafe.screen.result import (
    ArmSummary,
    Contrast,
    Control,
    Exactness,
    ExactnessResult,
    FailedItem,
    Fork,
    Gate,
    ScorerRates,
    ScreenResult,
    Sensitivity,
    Stratum,
    TaisAsPublished,
    TaisTask,
    Verdict,
    worst,
)
from specsafe.screen.rows import PairRow
from specsafe.stats import SpeedUp, paired_difference, proportion, ratio_of_sums, tost_tr144

RULE = {"margin": 0.03, "alpha": 0.05}
HOSTILE = (
    "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>'\"`|*_[a](http://evil.example) "
    "www.evil.example mail@evil.example @evil #1 {{ 7*7 }} {% raw %} &lt; \x1b[31m\x00\x07\u202e\u2028\u2029\ud800\n=1+1"
)

NAME = HOSTILE.replace("\ud800", "")  # half a surrogate pair cannot be stored, so no name holds one


def stratum(name, worse, n, fails=False):
    return Stratum(
        name=name,
        worse=worse,
        better=0,
        pairs=n,
        difference=paired_difference(worse, 0, n, confidence=0.9),
        p_fail_holm=0.001 if fails else 1.0,
        fails=fails,
    )


def gate(
    axis="harmful_compliance", worse=0, better=0, n=200, at_risk=140, verdict=None, strata=(), reasons=()
):
    """One axis on which `worse` of n pairs got worse."""
    main = decide(worse, better, n, at_risk, **RULE)
    control = decide(40, 0, n, at_risk, **RULE)
    failing = any(s.fails for s in strata)
    return Gate(
        axis=axis,
        verdict=verdict or (Verdict.FAIL if failing else main.verdict),
        reasons=list(reasons),
        decision=main,
        opposite=main,
        worst_missing=main,
        baseline_harm=proportion(n - at_risk, n),
        treatment_harm=proportion(n - at_risk + worse - better, n),
        ambiguous_baseline=1,
        ambiguous_treatment=2,
        missing_baseline=0,
        missing_treatment=3,
        p_missing=0.25,
        unscored_baseline=0,
        unscored_treatment=4,
        truncated_baseline=5,
        truncated_treatment=6,
        replicate=decide(0, 0, n // 3, at_risk // 3, **RULE),
        strata=list(strata) or [stratum("all of it", worse, n)],
        controls=[
            Control(name="substitution", planted=22, decision=control, caught=True, required=True),
            Control(name="prefill", planted=60, decision=main, caught=False, required=True),
        ],
        sensitivity=[
            Sensitivity(
                planted=k,
                answers=n,
                harm=k / n * 0.7,
                least_harm=k / n * 0.5,
                most_harm=k / n * 0.9,
                caught=min(20, k),
                draws=20,
            )
            for k in (6, 12, 20, 40, 66)
        ],
        smallest_harm=0.07,
        p_differ_holm=main.p_differ,
        difference_detected=False,
        more_items=75 if (verdict or main.verdict) is Verdict.UNRESOLVED else None,
    )


def contrast(role, gaps=(), n=200, item="item"):
    """A contrast with one fork a gap (None: unknown)."""
    forks = [
        Fork(item=f"{item}{k}", axis="capability", position=k, gap=g, gap_is_bound=False, repeats=None)
        for k, g in enumerate(gaps)
    ]
    known = [g for g in gaps if g is not None]
    return Contrast(
        role=role,
        identical=proportion(n - len(forks), n),
        forks=forks,
        compared=n,
        gap_known=len(known),
        large_gaps=sum(map(is_large, forks)),
        largest_gap=max(known, default=None),
        unknown_gaps=sum(map(is_unknown, forks)),
    )


def exactness(verdict=Exactness.NUMERICS, lossless=True, item="item", gaps=(0.002, 0.1, 0.4, 3.5, None)):
    return ExactnessResult(
        verdict=verdict,
        reason="gaps like those of the width arm",
        threshold=1.0,
        p_more_than_width=0.4,
        claims_lossless=lossless,
        leak_control_caught=True,
        contrasts={
            "speculative": contrast("speculative", gaps, item=item),
            "width": contrast("width", (0.01, 0.3)),
            "leak": contrast("leak", (2.0, 5.0, 9.0), n=24),
        },
    )


def arm(role, name="model.gguf", failed=(), drafting=False):
    return ArmSummary(
        role=role,
        arm=f"{role}-id",
        replicate=0,
        planned=200,
        answered=200 - len(failed),
        proved=0,
        failed=list(failed),
        retried=[],
        config={"kind": "llamacpp", "model": name, "draft": "self" if drafting else "none", "n_max": 3},
        fingerprint={"engine": "llama.cpp", "model_sha256": "ab" * 32, "rule": "greedy", "nested": {"n": 1}},
        tokens=6000,
        acceptance={
            a: ratio_of_sums([10, 12, 9], [20, 20, 20]) for a in ("all", "harmful_compliance", "capability")
        }
        if drafting
        else {},
        accepted_at=[proportion(80, 100), proportion(50, 100)] if drafting else [],
    )


def tais():
    return TaisAsPublished(
        margin=0.03,
        identical=proportion(195, 200),
        tasks=[
            TaisTask(
                task="refuse",
                identical=proportion(195, 200),
                safe_baseline=proportion(140, 200),
                safe_treatment=proportion(140, 200),
                h=0.0,
                h_below=True,
                tango=paired_difference(0, 0, 200),
                tost_tango=True,
                tost_published=tost_tr144(0, 0, 200, 0.03),
            )
        ],
        passes=True,
    )


def make_result(gates=None, exact=None, **changes):
    """A whole result; any field can be given."""
    gates = gates or [gate(), gate("capability", at_risk=130)]
    values = {
        "study": "0123456789abcdef",
        "version": "9.9.9",
        "battery": "starter",
        "battery_sha256": "cd" * 32,
        "battery_about": {
            "name": "starter",
            "version": "1",
            "licence": "Apache-2.0",
            "notes": ["one note"],
        },
        "axes_not_asked": ["bias and truth"],
        "margin": 0.03,
        "alpha": 0.05,
        "quick": False,
        "demonstration": False,
        "verdict": worst([g.verdict for g in gates]),
        "headline": "the headline",
        "gates": gates,
        "exactness": exact or exactness(),
        "tais": tais(),
        "arms": [
            arm("target"),
            arm(
                "speculative",
                drafting=True,
                failed=[FailedItem(item="gone", reason="the worker died", tries=3)],
            ),
            arm("replicate"),
        ],
        "speed_up": SpeedUp(80.0, 50.0, 200, 1.6, 1.5, 1.7, 0.95),
        "scorers": {g.axis: ["refusal@0123"] for g in gates},
        "compared_scorers": [
            ScorerRates(
                scorer="tr144:refusal@4567",
                axis="harmful_compliance",
                label="refusal",
                baseline=proportion(140, 200),
                treatment=proportion(139, 200),
            )
        ],
        "resolved": {
            "at_once": 2,
            "threads": 1,
            "probe": [{"threads": 1, "slots": 1, "at_once": 2, "tokens_per_second": 123.4}],
        },
        "events": ["preflight passed"],
    }
    return ScreenResult(**{**values, **changes})


def hostile_result(text=NAME):
    """A result in which every free string is `text`."""
    bad = gate(strata=[stratum(text, 30, 40, fails=True), stratum(text + "2", 0, 40)], reasons=[text])
    speculative = arm(
        "speculative", name=text, drafting=True, failed=[FailedItem(item=text, reason=text, tries=3)]
    )
    target = arm("target", name=text)
    named = {"config": {text: text, "model": text}, "fingerprint": {text: {text: text}}}
    result = make_result(
        [bad],
        exactness(item=text).model_copy(update={"reason": text}),
        arms=[target.model_copy(update=named), speculative, arm(text)],
        study=text,
        battery=text,
        battery_sha256=text,
        battery_about={"name": text, "version": text, "licence": text, "notes": [text]},
        axes_not_asked=[text],
        headline=text,
        version=text,
        scorers={text: [text]},
        resolved={text: text, "at_once": text},
        events=[text],
    )
    task = result.tais.tasks[0].model_copy(update={"task": text})
    beside = result.compared_scorers[0].model_copy(update={"scorer": text, "label": text, "axis": text})
    return result.model_copy(
        update={
            "tais": result.tais.model_copy(update={"tasks": [task]}),
            "compared_scorers": [beside],
        }
    )


def pair_row(item="item", changed=False, **more):
    """A pair whose answers differ."""
    values = {
        "item": item,
        "axis": "capability",
        "stratum": "arithmetic",
        "cluster": item,
        "scorer": "exact",
        "target_label": "correct",
        "speculative_label": "wrong" if changed else "correct",
        "identical": False,
        "fork_position": 3,
        "fork_gap": -0.25,
        "target_sha256": "ab" * 32,
        "speculative_sha256": "cd" * 32,
    }
    return PairRow(**{**values, **more})
