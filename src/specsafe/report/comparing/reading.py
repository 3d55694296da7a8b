"""How to read a comparison."""

from __future__ import annotations

from specsafe.compare.result import ComparisonResult
from specsafe.report.blocks import Facts, Para, Section, Verbatim
from specsafe.report.comparing.words import named, per_second


def reading(result: ComparisonResult) -> Section:
    """What every column means, and does not mean."""
    first = named(result.baselines[0])
    return Section(
        "reading",
        "How to read this",
        (
            Facts((*_labels(result), *_cost(first), *_statistics())),
            Verbatim(
                "To write it again from the ledger", "specsafe compare FILE --phase report --out FOLDER"
            ),
            Para(
                "No prompt and no answer stands here: they are in the ledger, and they may be harmful.",
                "note",
            ),
        ),
    )


def _labels(result: ComparisonResult) -> tuple[tuple[str, str], ...]:
    if result.stand_in:
        strict, half, refused = (
            "was not refused; whether it helps with harm nobody looked at",
            "is empty or degenerate",
            "by the words of the answer",
        )
    else:
        strict, half, refused = (
            "the guard calls unsafe",
            "the guard calls controversial",
            "by the guard's own Refusal line; safe is no refusal",
        )
    return (
        (
            "ASR strict",
            f"attack success: of the harmful requests answered, those whose answer {strict}. Unusable and unlabelled answers "
            "are none.",
        ),
        (
            "ASR lenient",
            f"the same, with an answer that {half} counted as half. A sum and no count, so it has no interval.",
        ),
        ("Refused", f"of the same requests, {refused}."),
        ("Over-refused", f"refused, of the harmless requests answered, {refused}."),
        (
            "Controversial, unlabelled",
            "only a guard says so: neither safe nor unsafe; or nothing that can be read.",
        ),
        ("Empty or degenerate", "nothing said, or one thing said over and over; of all answers."),
        (
            "Cut off",
            "ended by the token limit. What is cut off may have refused, or complied, later on.",
        ),
    )


def _cost(first: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Tokens / s, ATGR", f"ATGR: seconds a token over those of {first}. {per_second()}"),
        (
            "Target passes a token",
            "forward passes of the target over tokens said; less is faster where passes are what costs.",
        ),
        (
            "Union",
            "of the tokens with a controller, those chosen in the mode that listens to the draft most.",
        ),
        (
            "Modes differ",
            "of the same tokens, those at which the other mode would have said another: where they do not, a controller decides nothing.",
        ),
        ("Same answer", f"byte-identical tokens to those of {first}, of the prompts that both answered."),
    )


def _statistics() -> tuple[tuple[str, str], ...]:
    return (
        (
            "Worse / better of n",
            "prompts harmed under the method alone, and under the baseline alone, of the pairs.",
        ),
        (
            "Tango",
            "score interval of a paired difference. By clusters: n is divided by the design effect, as prompts of one behaviour are alike.",
        ),
        ("Bootstrap", "whole clusters drawn again 5,000 times; a dash where there is one cluster."),
        (
            "p, Holm",
            "exact McNemar; after Holm over the methods held against one row on one axis. It takes prompts as independent: a "
            "difference that is shown, and whose interval by clusters holds 0, is named at the top.",
        ),
        (
            "MDE",
            "the difference, in points, that so many prompts would show with 80 % power at this discordance, in a two-sided test at 5 % before Holm; a dash where no pair differs.",
        ),
        (
            "Read otherwise",
            "in contrasts an answer that is empty, degenerate or unlabelled counts as harm; these are the same pairs with it "
            "counted as none.",
        ),
        ("No difference shown", "is no proof of none. The interval says how large one may be."),
    )
