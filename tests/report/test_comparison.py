"""The report of a comparison: what it says, in whatever it is written, and that no name in it is alive."""

import base64
import hashlib
import re

import pytest
from made_comparison import HARMFUL, contrast, hostile_comparison, make_comparison, method, tuned
from markdown_it import MarkdownIt
from pages import Page

from specsafe.compare.config import is_comparison
from specsafe.compare.result import ComparisonResult, Guard
from specsafe.report.comparing.terminal import WIDTH, comparison_summary
from specsafe.report.comparing.words import hangs_on_clusters, hangs_on_reading
from specsafe.report.written import COMPARISON
from specsafe.stats import paired_difference, proportion, ratio_of_sums

FEW = ("vanilla", "ssd", "ssd-crs", "draft-alone")


def words(result):
    return Page(COMPARISON.html(result)).words()


def markdown(result):
    return COMPARISON.markdown(result).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def whole():
    """25 methods, ablations and calibrations: the result and what the page says."""
    result = make_comparison(tuning=True)
    return result, words(result)


def test_it_begins_with_what_was_compared_on_what_and_who_labelled(whole):
    front, _, _ = whole[1].partition("What was answered")
    for expected in (
        "25 methods on the same 100 prompts: 70 for harmful compliance, 30 for over-refusal",
        "The refusal detector stands in for a guard model.",
        "counts as complied with, whatever the answer is worth",
        "against vanilla",
        "against ssd",
        "6,000 pairs of a prompt of either were held against each other",
    ):
        assert expected in front, expected


def test_every_number_of_a_method_stands_with_its_counts(whole):
    result, text = whole
    vanilla, page = result.methods[0], markdown(result)
    for expected in (
        "34/70 = 48.6 % [36.4, 60.8]",  # ASR strict
        "36/70 = 51.4 %",  # refused
        "0/30 = 0.0 % [0.0, 11.6]",  # over-refused
        "0/100 = 0.0 %",  # unusable
        "50/100 = 50.0 %",  # cut off
        "41.2",  # words
        "3,750/",  # tokens over seconds
        f"{vanilla.atgr:.2f}",
        "1,500/3,750 = 0.40",  # passes of the target a token
        "2,625/3,750 = 70.0 %",  # accepted
        "1,125/3,750 = 30.0 %",  # union
        "375/3,750 = 10.0 %",  # modes differ
        "33/100 = 33.0 %",  # same answers
    ):
        assert expected in text, expected
        assert expected in page, expected


def test_markdown_says_what_the_page_says(whole):
    result, text = whole
    page = markdown(result)
    for expected in (
        "| method | ASR strict | ASR lenient | refused | over-refused |",
        "![Safety against over-refusal](figures/safety-over-refusal.svg)",
        "(figures/gate-perplexity-gate.svg)",
        "stands in for a guard model",
        "| safe-prompt | control.tau | 0.1235 | the 95th percentile on harmless prompts | 12,345 | vanilla | tuning |",
        "1 of 2 published differences could have been shown",
        "14/70 against 24/70",
    ):
        assert expected in page, expected
    for heading in re.findall(r"^## (.+)$", page, re.MULTILINE):
        assert heading in text
    kinds = {t.type for t in MarkdownIt("commonmark").enable("table").parse(page)}
    assert kinds.isdisjoint({"html_block", "fence"})


def test_a_contrast_tells_difference_intervals_tests_and_the_other_reading():
    other = {"worse": 2, "better": 9, "p": 0.03, "holm": 0.4}
    hanging = contrast("vanilla", worse=1, better=12, holm=0.01, otherwise=other)
    result = make_comparison(FEW)
    changed = method("ssd-crs", contrasts=(hanging,))
    result = result.model_copy(
        update={"methods": (*result.methods[:2], changed, result.methods[3])},
    )
    text = words(result)
    for expected in (
        "−15.7 [−26.5, −6.8]",  # Tango
        "1 / 12 of 70",
        "35, 1.40",  # clusters, design effect
        "n = 50",  # of the clustered interval
        "[−10.0, +5.0]",  # bootstrap
        "0.0034",  # McNemar
        "0.01",  # Holm
        "2 / 9, p = 0.03, Holm 0.4",  # read otherwise
        "ssd-crs, harmful compliance: hangs on how unreadable answers are read",
    ):
        assert expected in text, expected


@pytest.mark.parametrize(
    ("holm", "other", "expected"),
    [
        (0.01, {"worse": 1, "better": 12, "p": 0.003, "holm": 0.01}, False),
        (0.01, {"worse": 1, "better": 6, "p": 0.13, "holm": 1.0}, True),
        (0.01, {"worse": 1, "better": 9, "p": 0.02, "holm": 0.2}, True),
        (0.01, {"worse": 12, "better": 1, "p": 0.003, "holm": 0.01}, True),
        (0.30, {"worse": 12, "better": 1, "p": 0.003, "holm": 0.01}, True),
        (0.30, {"worse": 12, "better": 1, "p": 0.003, "holm": 0.06}, False),
    ],
)
def test_a_difference_hangs_on_the_reading_if_it_turns_or_vanishes(holm, other, expected):
    assert hangs_on_reading(contrast("vanilla", worse=1, better=12, holm=holm, otherwise=other)) is expected


def test_a_difference_that_clusters_undo_is_named():
    shaky = contrast("vanilla", worse=0, better=6, holm=0.03)
    alike = shaky.model_copy(update={"clustered": paired_difference(0, 1.5, 17.5, confidence=0.95)})
    assert not hangs_on_clusters(shaky) and hangs_on_clusters(alike)
    assert not hangs_on_clusters(alike.model_copy(update={"holm": 0.06}))
    result = make_comparison(FEW)
    changed = method("ssd-crs", contrasts=(alike,))
    result = result.model_copy(update={"methods": (*result.methods[:2], changed, result.methods[3])})
    assert "ssd-crs, harmful compliance: hangs on prompts of one cluster counting as independent" in words(
        result
    )


def test_nothing_shown_is_not_called_the_same():
    quiet = tuple(method(n, contrasts=[contrast("vanilla")] if n != "vanilla" else ()) for n in FEW)
    text = words(make_comparison(FEW, methods=quiet, baselines=("vanilla",)))
    assert "No method is shown to comply with more or fewer harmful requests than vanilla" in text
    assert "That is not the same as no difference" in text
    assert "0 of 3 differ" in text


def test_a_guard_is_named_and_what_only_it_says_is_shown():
    quiet = words(make_comparison(FEW))
    assert "unlabelled 0/100" not in quiet
    told = {"controversial": proportion(7, HARMFUL), "unlabelled": proportion(3, 100)}
    methods = tuple(m.model_copy(update=told) for m in make_comparison(FEW).methods)
    guard = Guard(
        config={"model": "a-guard"}, texts=380, unlabelled={"no Safety line": 2, "longer": 1, "none": 0}
    )
    result = make_comparison(FEW, methods=methods, stand_in=False, scorer="guard@77", guard=guard)
    text = words(result)
    assert "7/70 = 10.0 %" in text
    assert "3/100 = 3.0 %" in text
    assert "The labels are those of a guard model, guard@77." in text
    assert "Of 380 distinct answers it left 3 without a label (no Safety line 2, longer 1)." in text
    assert "model a-guard" in text
    assert "by the guard's own Refusal line" in text
    assert "Labels: a guard model, guard@77" in comparison_summary(result)
    assert "stands in" not in text


def test_without_tuning_published_counts_and_calibrations_their_sections_are_not_there():
    text = words(make_comparison(FEW, published=()))
    for missing in ("Ablations", "Calibrations", "published counts"):
        assert missing not in text


def test_what_limits_a_comparison_is_flagged():
    rows = [
        method("vanilla", failed=3, contrasts=()),
        method("ssd-seed", depends_on_lookahead=True, contrasts=[contrast("vanilla")]),
    ]
    result = make_comparison(
        ("vanilla", "ssd-seed"), tuning=True, methods=tuple(rows), baselines=("vanilla",)
    )
    text = words(result)
    assert "3 answers are missing (vanilla)" in text
    assert "What ssd-seed answers depends on how many tokens are drafted at a time" in text
    assert "ssd-seed: a number was measured on the prompts of this comparison" in text


def test_each_method_is_told_with_its_configuration_and_what_ran(whole):
    text = whole[1]
    assert "what ssd-crs is" in text
    assert "method = ssd-crs" in text
    assert "weights.target Q4_1" in text


def test_a_method_without_controller_draft_or_clock_leaves_dashes():
    bare = method("target", union=None, acceptance=None, modes_differ=None, atgr=None)
    untimed = bare.model_copy(update={"tokens_a_second": ratio_of_sums([5.0], [0.0])})
    result = make_comparison(FEW, methods=(untimed, method("b")), baselines=("target",))
    page = markdown(result)
    assert "| target | – | – | 1,500/3,750 = 0.40 [0.40, 0.40] | – |" in page
    assert "Not timed: target." in page
    both = make_comparison(FEW, methods=(untimed,), baselines=("target",))
    assert "Safety against speed" not in COMPARISON.markdown(both)


def test_the_page_may_load_nothing_and_run_nothing(whole):
    page = COMPARISON.html(whole[0])
    parsed = Page(page)
    (policy,) = (a["content"] for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert {t for t, _ in parsed.elements}.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert sum(t == "style" for t, _ in parsed.elements) == 1
    assert not any(k.startswith("on") or k in ("style", "src") for _, a in parsed.elements for k in a)
    assert all(a["href"].startswith("#") for t, a in parsed.elements if t == "a")
    assert set(re.findall(r"(?:https?:)?//[\w.]+[^\s\"'<]*", page)) == {"http://www.w3.org/2000/svg"}


def test_hostile_names_reach_page_markdown_figures_and_terminal_dead(tmp_path):
    result = hostile_comparison()
    plain = Page(COMPARISON.html(make_comparison(FEW, tuning=True)))
    page = COMPARISON.html(result)
    parsed = Page(page)
    assert {t for t, _ in parsed.elements} == {t for t, _ in plain.elements}
    assert "<script" not in page and "<img" not in page
    assert "{{ 7*7 }}" in page
    assert "&lt;script&gt;alert(1)" in page
    kinds = set()
    for token in MarkdownIt("commonmark").enable("table").parse(COMPARISON.markdown(result)):
        kinds |= {token.type, *(c.type for c in token.children or ())}
    assert kinds.isdisjoint(
        {"html_inline", "html_block", "link_open", "code_inline", "fence", "blockquote_open"}
    )
    for path in COMPARISON.write(result, tmp_path):
        assert re.fullmatch(r"[a-z0-9-]+\.(html|md|json|svg)", path.name)
        if path.suffix != ".json":
            assert not set(path.read_text(encoding="utf-8")) & set("\x00\x07\x1b\u202e\u2028")
    assert not set(comparison_summary(result)) & set("\x00\x07\x1b\u202e\u2028")


def test_the_same_result_gives_the_same_files_also_after_a_round_trip_through_json(tmp_path):
    result = make_comparison(FEW, tuning=True)
    again = ComparisonResult.model_validate_json(result.model_dump_json())
    one, other = COMPARISON.write(result, tmp_path / "a"), COMPARISON.write(again, tmp_path / "b")
    assert [p.relative_to(tmp_path / "a") for p in one] == [p.relative_to(tmp_path / "b") for p in other]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other]
    assert [p.name for p in one] == [
        "comparison.html",
        "comparison.md",
        "comparison.json",
        "asr.svg",
        "safety-over-refusal.svg",
        "safety-speed.svg",
        "ablation-weights-of-the-score.svg",
        "ablation-alpha-of-union.svg",
        "gate-perplexity-gate.svg",
    ]
    assert ComparisonResult.model_validate_json(one[2].read_text(encoding="utf-8")) == result


def test_ablations_of_one_name_do_not_take_each_others_file(tmp_path):
    made = tuned()
    same = made.model_copy(
        update={"ablations": tuple(a.model_copy(update={"name": "λ"}) for a in made.ablations)}
    )
    result = make_comparison(FEW).model_copy(update={"tuning": same})
    names = [p.name for p in COMPARISON.write(result, tmp_path)]
    assert len(set(names)) == len(names) == 9


def test_the_terminal_has_a_row_a_method_in_a_hundred_columns(whole):
    for result in (whole[0], hostile_comparison(), make_comparison(FEW)):
        text = comparison_summary(result, ["page out/comparison.html"])
        table = text.split("\n\n")[1].splitlines()
        assert len(table) == 1 + len(result.methods)
        assert max(map(len, table)) <= WIDTH
        assert text.endswith("page out/comparison.html")
        assert "stands in for a guard model" in " ".join(text.split())
    lines = comparison_summary(whole[0]).splitlines()
    assert "vanilla              34/70 48.6%  0/30 0.0%     baseline         +8.6 p=0.33      26.0" in lines
    assert any(line.startswith("safe-prompt") and "-37.1 p<0.001*" in line for line in lines)


def test_a_comparisons_ledger_is_told_from_a_screens():
    assert is_comparison({"methods": {}, "baselines": [], "name": "x"})
    assert not is_comparison({"battery": "starter"})
