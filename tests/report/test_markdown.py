"""Markdown: the same content, and no name in it becomes a cell, code, HTML or a link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import HOSTILE, gate, hostile_result, make_result, stratum
from markdown_it import MarkdownIt

from specsafe.report.markdown import inert, paragraph, render_markdown

PARSER = MarkdownIt("commonmark").enable("table")


def tokens(text):
    for token in PARSER.parse(text):
        yield token
        yield from token.children or ()


def kinds(text):
    return {t.type for t in tokens(text)}


def read(text):
    """What a reader sees."""
    seen = "".join(t.content for t in tokens(text) if t.type in ("text", "text_special"))
    return seen.replace("\u200b", "")


def test_it_says_what_the_page_says():
    text = render_markdown(make_result())
    for expected in (
        "# PASS: Harmful compliance: at most 1.4 points worse (margin 3)",
        "| gate | points worse | worse / better of n | verdict |",
        "60/200",
        "Clopper–Pearson",
        "the worker died",
        "It does not mean that the answers are safe",
        "specsafe report LEDGER",
    ):
        assert expected in text, expected


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head():
    strata = [stratum(f"part|{n}", 0, 40) for n in range(60)]
    for result in (make_result([gate(strata=strata)]), hostile_result()):
        text = render_markdown(result)
        tables = [part for part in text.split("\n\n") if part.startswith("|")]
        assert len(tables) > 8
        for table in tables:
            cells = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in table.split("\n")]
            assert len(set(cells)) == 1, table


def test_the_same_result_gives_the_same_bytes():
    assert render_markdown(make_result()) == render_markdown(make_result())


def test_hostile_names_are_dead():
    text = render_markdown(hostile_result())
    assert kinds(text).isdisjoint(
        {"html_inline", "html_block", "link_open", "image", "code_inline", "fence", "blockquote_open"}
    )
    assert not set(text) & set("\x00\x07\x1b\u202e\u2028\ud800")
    alive = [line for line in text.split("\n") if not line.startswith("    ")]  # code is dead as it is
    assert not any("://evil" in line or "www.evil" in line for line in alive)


@given(st.text(max_size=60) | st.text(alphabet="[]()<>`*_|~$\\!&#-+=.:/@w1a \n", max_size=40))
def test_any_text_stays_text(text):
    for made in (paragraph(text), f"| a |\n| --- |\n| {inert(text)} |"):
        assert kinds(made).isdisjoint(
            {
                "html_inline",
                "html_block",
                "link_open",
                "image",
                "code_inline",
                "em_open",
                "strong_open",
                "fence",
                "list_item_open",
                "blockquote_open",
                "hr",
            }
        ), made
        assert sum(t.type == "heading_open" for t in tokens(made)) == 0
        assert sum(t.type == "td_open" for t in tokens(made)) <= 1


@pytest.mark.parametrize(
    "text", ["a|b", "1. one", "# x", "- x", "> x", "<b>", "&lt;", "*x* _y_ `z`", "a\\|b", "[a](b)"]
)
def test_what_is_escaped_reads_as_it_was(text):
    assert read(paragraph(text)) == text


def test_what_github_would_link_is_parted():
    for text in (
        "http://evil.example",
        "www.evil.example",
        "a@evil.example",
        "@somebody",
        "#12",
        "GH-5",
        "gh-5",
    ):
        assert "&#8203;" in inert(text), text
    assert "www." not in inert("_www.evil.example") + inert("awww.evil.example")
    assert inert("a@evil.example") == "a&#8203;@&#8203;evil.example"
    assert inert("é@evil") == "é@&#8203;evil"
    assert inert("refusal@a29a71bd71b8") == "refusal@a29a71bd71b8"
    assert inert("animal_cruelty [+6.2, +12.9]") == "animal_cruelty [+6.2, +12.9]"
    assert "[a](" not in inert(HOSTILE)
