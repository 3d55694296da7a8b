"""What was measured before the comparison: ablations on prompts of their own, and numbers that were not chosen."""

from __future__ import annotations

from specsafe.compare.result import Ablation, Calibration, ComparisonResult, MethodResult
from specsafe.report.blocks import Block, Fold, Para, Row, Section, Table
from specsafe.report.comparing.answers import lenient
from specsafe.report.comparing.figures import ablations, is_marked
from specsafe.report.comparing.words import counted, named
from specsafe.report.numbers import rate, ratio
from specsafe.words import plural


def tuned(result: ComparisonResult) -> list[Section]:
    """A section of the ablations and one of the calibrations, where there are any."""
    found = []
    if result.tuning is not None:
        found.append(
            Section(
                "tuning",
                "Ablations, on prompts of their own",
                (
                    Para(
                        f"Measured on {plural(sum(result.tuning.items.values()), 'tuning prompt')} ({counted(result.tuning.items)}). No "
                        "number of the comparison comes from them. A setting that looks best here was looked for here: what it "
                        "is worth only the comparison can say."
                    ),
                    Para(
                        f"{plural(result.tuning.compared, 'pair')} of a tuning and an evaluation prompt, held against each other: "
                        "none is nearly equal.",
                        "note",
                    ),
                    *(b for a, figure in ablations(result) for b in (figure, _numbers(a))),
                ),
            )
        )
    if result.calibrations:
        found.append(_calibrated(result.calibrations))
    return found


def _numbers(ablation: Ablation) -> Fold:
    name = f"{named(ablation.name)} in numbers"
    table = Table(
        caption=f"{named(ablation.method)} with {named(ablation.varied)} changed",
        head=(
            "setting",
            "ASR strict",
            "ASR lenient",
            "refused",
            "over-refused",
            "tokens under union",
            "modes differ",
            "words, mean",
        ),
        rows=tuple(_setting(m) for m in ablation.methods),
    )
    return Fold(name, (table,))


def _setting(m: MethodResult) -> Row:
    cells = (
        named(m.row),
        rate(m.asr_strict),
        lenient(m),
        rate(m.refusal),
        rate(m.over_refusal),
        ratio(m.union),
        ratio(m.modes_differ),
        f"{m.words:.1f}",
    )
    return Row(cells, "strong" if is_marked(m.row) else "plain")


def _calibrated(found: tuple[Calibration, ...]) -> Section:
    blocks: list[Block] = [
        Table(
            caption="Numbers that were measured, not chosen",
            head=("row", "number", "value", "rule", "tokens measured", "answers of", "on the prompts of"),
            rows=tuple(
                Row(
                    (
                        named(c.row),
                        named(c.key),
                        f"{c.value:.4g}",
                        named(c.rule),
                        f"{c.n:,}",
                        named(c.source),
                        named(c.on),
                    ),
                    "open" if c.on == "evaluation" else "plain",
                )
                for c in found
            ),
            numbers=False,
        )
    ]
    if any(c.on == "evaluation" for c in found):
        blocks.append(
            Para(
                "On evaluation: a share that a control copies from a method was counted on the prompts of the comparison. No "
                "label was looked at.",
                "note",
            )
        )
    return Section("calibrations", "Calibrations", tuple(blocks))
