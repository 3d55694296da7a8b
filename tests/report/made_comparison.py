"""Comparisons made by hand, with every statistic from the real functions: what the tests of their report render."""

import random

from made_results import NAME

from specsafe.compare.result import (
    Ablation,
    Calibration,
    ComparisonResult,
    Contrast,
    MethodResult,
    Otherwise,
    PublishedDifference,
    Tuning,
)
from specsafe.stats import mcnemar_exact, paired_difference, paired_mde, proportion, ratio_of_sums

MANY = (
    *(
        "vanilla",
        "ssd",
        "ssd-seed",
        "ssd-floor",
        "ssd-crs",
        "ssd-crs-best",
        "ssd-crs-gated",
        "ssd-crs-user-gate",
    ),
    *("ssd-crs-zero-lag", "ssd-crs-trie", "continuous", "aasd-frozen", "aasd-decay", "ssd-crs-aasd"),
    *("safedecoding", "safedecoding-seed", "typical", "rejection", "always-intersection", "always-union"),
    *("random-mode", "draft-alone", "self-draft", "ssd-steering", "safe-prompt"),
)
HARMFUL, HARMLESS = 70, 30
SCORER = "refusal@0123456789abcdef"


def contrast(baseline, axis="harmful_compliance", worse=3, better=5, n=HARMFUL, holm=0.9, otherwise=None):
    """One method against a baseline; its clusters make n a little smaller."""
    effect = 1.4
    return Contrast(
        baseline=baseline,
        axis=axis,
        worse=worse,
        better=better,
        n=n,
        missing=0,
        clusters=n // 2,
        design_effect=effect,
        difference=paired_difference(worse, better, n, confidence=0.95),
        clustered=paired_difference(worse / effect, better / effect, n / effect, confidence=0.95),
        bootstrap=(-0.1, 0.05) if n > 2 else None,
        p=mcnemar_exact(worse, better),
        holm=holm,
        mde=paired_mde(n / effect, (worse + better) / n, alpha=0.025) if worse + better else None,
        otherwise=Otherwise(
            **(
                otherwise
                or {"worse": worse, "better": better, "p": mcnemar_exact(worse, better), "holm": holm}
            )
        ),
    )


def method(
    row, harmful=34, over=3, *, harms=HARMFUL, fine=HARMLESS, speed=20.0, union=0.3, contrasts=(), **changes
):
    """A method that complied with `harmful` of `harms` and refused `over` of `fine`; union None: no controller."""
    total = harms + fine
    tokens = [float(20 + n % 40) for n in range(total)]
    values = {
        "row": row,
        "method": row,
        "about": f"what {row} is",
        "config": {"kind": "native", "method": row, "draft": "self", "max_tokens": 64, "changes": ""},
        "fingerprint": {"engine": "native", "weights": {"target": "Q4_1"}, "arithmetic": "fast"},
        "depends_on_lookahead": False,
        "answered": total,
        "failed": 0,
        "asr_strict": proportion(harmful, harms),
        "asr_lenient": harmful / harms,
        "refusal": proportion(harms - harmful, harms),
        "over_refusal": proportion(over, fine),
        "controversial": proportion(0, harms),
        "unusable": proportion(0, total),
        "unlabelled": proportion(0, total),
        "truncated": proportion(total // 2, total),
        "words": 41.25,
        "union": None if union is None else ratio_of_sums([union * t for t in tokens], tokens),
        "modes_differ": None if union is None else ratio_of_sums([0.1 * t for t in tokens], tokens),
        "tokens_a_second": ratio_of_sums(tokens, [t / (speed + n % 3) for n, t in enumerate(tokens)]),
        "atgr": 21 / (speed + 1),
        "forwards": ratio_of_sums([0.4 * t for t in tokens], tokens),
        "acceptance": ratio_of_sums([0.7 * t for t in tokens], tokens),
        "same_as_baseline": proportion(total // 3, total),
        "contrasts": tuple(contrasts),
    }
    return MethodResult(**{**values, **changes})


def compared(row, harmful, over, base_harmful, base_over, baselines, **changes):
    """A method with its contrasts against the baselines, whose harm is what `base_…` says."""
    found = []
    for b in (b for b in baselines if b != row):
        net = harmful - base_harmful[b]
        worse, better = max(net, 0) + 2, max(-net, 0) + 2
        p = min(1.0, 3 * mcnemar_exact(worse, better))
        found.append(contrast(b, worse=worse, better=better, holm=p))
        net = over - base_over[b]
        found.append(contrast(b, "over_refusal", max(net, 0) + 1, max(-net, 0) + 1, HARMLESS, 1.0))
    return method(row, harmful, over, contrasts=found, **changes)


def make_comparison(rows=None, *, tuning=False, **changes):
    """A whole result; rows: the methods by name, the first two are the baselines (25 if None)."""
    names = list(MANY if rows is None else rows)
    baselines = tuple(names[:2])
    rng = random.Random(7)
    harm = {n: rng.randint(24, 52) for n in names}
    over = {n: rng.choice((0, 0, 1, 1, 2, 3, 5, 12)) for n in names}
    harm[names[-1]] = 8
    methods = tuple(
        compared(n, harm[n], over[n], harm, over, baselines, speed=rng.uniform(4, 40)) for n in names
    )
    values = {
        "version": "9.9.9",
        "name": "made",
        "items": {"harmful_compliance": HARMFUL, "over_refusal": HARMLESS},
        "scorer": SCORER,
        "stand_in": True,
        "baselines": baselines,
        "methods": methods,
        "published": (
            PublishedDifference(
                source="a report",
                method="best",
                baseline=baselines[0],
                harmful=14,
                baseline_harmful=24,
                n=70,
                best_p=0.002,
                best_holm=0.004,
            ),
            PublishedDifference(
                source="a report",
                method="other",
                baseline=baselines[0],
                harmful=20,
                baseline_harmful=24,
                n=70,
                best_p=0.125,
                best_holm=0.25,
            ),
        ),
        "calibrations": calibrations(names) if tuning else (),
        "tuning": tuned() if tuning else None,
    }
    return ComparisonResult(**{**values, **changes})


def calibrations(names):
    return (
        Calibration(
            row=names[-1],
            key="control.tau",
            value=0.123456,
            rule="the 95th percentile on harmless prompts",
            n=12345,
            source=names[0],
            on="tuning",
        ),
        Calibration(
            row=names[-1],
            key="control.share",
            value=0.31,
            rule="the share of union",
            n=2000,
            source=names[0],
            on="evaluation",
        ),
    )


def tuned(text=None):
    """Two ablations and a gate; text: every free string instead."""
    weights = [
        "full (default)",
        "without mismatch",
        "without KL",
        "KL alone",
        "KL and openings (published best)",
    ]
    gates = ["off", "50", "150 (published)", "500"]
    kinds = (
        ("weights of the score", "control weights", weights),
        ("alpha of union", "union.alpha", ["0.5 (default)", "0.8", "1", "2"]),
        ("perplexity gate", "gate.threshold", gates),
    )
    ablations = tuple(
        Ablation(
            name=text or name,
            method=text or "ssd-crs",
            varied=text or varied,
            methods=tuple(
                method(text or setting, 14 + 2 * n, n, harms=40, fine=20, union=0.1 * n)
                for n, setting in enumerate(settings)
            ),
        )
        for name, varied, settings in kinds
    )
    return Tuning(items={"harmful_compliance": 40, "over_refusal": 20}, compared=6000, ablations=ablations)


def hostile_comparison(text=NAME):
    """A result in which every free string is `text`, one row after the other with a number."""
    made = make_comparison(
        [f"{text}{n}" for n in range(4)], tuning=True, name=text, scorer=text, version=text
    )
    methods = tuple(
        m.model_copy(
            update={
                "about": text,
                "method": text,
                "config": {text: text, "system": text, "method": m.row},
                "fingerprint": {text: {text: m.row}},
            }
        )
        for m in made.methods
    )
    return made.model_copy(
        update={
            "methods": methods,
            "tuning": tuned(text),
            "calibrations": tuple(
                c.model_copy(update={"key": text, "rule": text, "source": text}) for c in made.calibrations
            ),
            "published": tuple(
                d.model_copy(update={"source": text, "method": text, "baseline": text})
                for d in made.published
            ),
        }
    )
