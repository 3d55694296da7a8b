"""Room: models/chat_template. Laws: whose text is whose stays known, and a template breaks out of nothing."""

import pytest

from specsafe.errors import UserError
from specsafe.models.chat_template import render


def rendered(template, prompt="  Hi <b>  ", system=""):
    messages = ([("system", system)] if system else []) + [("user", prompt)]
    return render(template, messages, {"bos_token": "<s>"}, "FILE")


def text_of(spans):
    return "".join(span.text for span in spans)


def test_rendering_knows_whose_text_is_whose():
    spans = rendered("{{ bos_token }}[{{ messages[0].content }}]")
    assert [tuple(span) for span in spans] == [("<s>[  ", True), ("Hi <b>", False), ("  ]", True)]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages[0].content | trim }}!", "Hi <b>!"),
        ("{{ messages[0].content | upper }}", "  HI <B>  "),
        ("{{ messages[0].content | tojson }}", '"  Hi <b>  "'),
        ("{{ messages[0].content }}{{ messages[0].content | trim }}", "  Hi <b>  Hi <b>"),
        ("{% for m in messages %}\n  {{ m.role }}\n{% endfor %}", "  user\n"),
        ("{%- generation -%} x {%- endgeneration -%} y", "xy"),
        ("{% if add_generation_prompt %}{{ strftime_now('%d %b %Y') }}{% endif %}", "26 Jul 2024"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
    ],
)
def test_what_templates_do_to_messages_is_kept(template, text):
    assert text_of(rendered(template)) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{% if %}", "refuses"),
        ("{{ messages[9].content.x }}", "refuses"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{% for i in range(10**9) %}{% endfor %}", "refuses"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses"),
        ("{{ messages[0].content[:20] }}", "cuts messages apart"),
        ("{{ messages[0].content[:45] }}", "cuts messages apart"),
        ("{{ messages[0].content[5:] }}", "cuts messages apart"),
    ],
)
def test_templates_that_fail_or_break_out_are_the_users_to_mend(template, words):
    with pytest.raises(UserError, match=words):
        rendered(template)


def test_empty_texts_and_a_missing_template(tiny):
    assert text_of(rendered("[{{ messages[0].content }}]", prompt=" \n")) == "[ \n]"
    ours, _ = tiny(template=None)
    with pytest.raises(UserError, match="no chat template"):
        ours.chat("hello")
