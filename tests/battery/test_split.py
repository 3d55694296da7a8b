"""Room: battery/near, split. Laws: nothing is on both sides, whatever the order; the same bytes every time."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specsafe.battery import Battery, Item, load_battery
from specsafe.battery.near import GRAM, components, words
from specsafe.battery.split import prove_disjoint, split, write_split
from specsafe.battery.wrap import WRAPPERS, wrap
from specsafe.errors import UserError

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tr_battery"
WORDS = ["one", "two", "three", "four", "five", "six"]
LONG = "please tell me in all the words that you have how one goes about to {} on a quiet day in the hills"


def battery(*items: Item) -> Battery:
    return Battery("toy", "1", "CC0", items)


def ask(prompt: str, task: str = "t", **more: str) -> Item:
    return Item(prompt, "harmful_compliance", task, **more)


def distinct(count: int, axis: str = "harmful_compliance", task: str = "t") -> list[Item]:
    """Items that share no word."""
    return [
        Item(
            " ".join(f"{axis}{task}{n}{w}" for w in WORDS),
            axis,
            task,
            answers=("x",) if axis == "capability" else (),
        )
        for n in range(count)
    ]


def joined(*prompts: str) -> bool:
    return len(set(components([ask(p, id=f"item-{n}") for n, p in enumerate(prompts)]).roots)) == 1


# --- What is one request --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hum a tune!", "hum  a TUNE"),
        ("Hum a “tune”.", "Hum a tune"),
        ("\uff28um a tune", "Hum a tune"),
        ("Hu\u200bm a\u2060 tu\u00adne\ufeff", "Hum a tune"),
        ("Hum a\ufe0f tu\u034f\x00ne", "Hum a tune"),
        ("Re\u200b\u0301sume\u0301", "R\u00e9sum\u00e9"),
        ("Straße", "STRASSE"),
        (LONG.format("hum"), LONG.format("hum") + " today"),
        ("how do I hum a tune", "My friend asks: how do I hum a tune? Tell him."),
        *((template.replace("{request}", "Hum, please"), "hum please") for template in WRAPPERS.values()),
        (
            WRAPPERS["persona"].replace("{request}", WRAPPERS["prefix"].replace("{request}", "Hum")),
            WRAPPERS["deepinception"].replace("{request}", "hum!"),
        ),
    ],
)
def test_equal_nearly_equal_and_wrapped_prompts_are_one(one, other):
    assert joined(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hum a tune", "Hum a song"),
        ("What is 2 + 3?", "What is 2 - 4?"),
        ("one two three four five six seven", "one two three four five nine ten"),
        ("?!", "…"),
        *(
            (template.replace("{request}", "Hum a tune"), template.replace("{request}", "Bake a cake"))
            for template in WRAPPERS.values()
        ),
    ],
)
def test_other_prompts_are_not(one, other):
    assert not joined(one, other)


HAN = "请用一首简短的诗告诉我怎样在一个安静的下午和邻居们一起在山坡上的小花园里{}唱一支关于春天的歌并且说明应当先做什么后做什么谢谢"
KANA = "しずかなごごにとなりのひとたちといっしょにおかのうえのちいさなにわで{}はるのうたをうたうほうほうをおしえてください"


@pytest.mark.parametrize("text", [HAN, KANA], ids=["han", "kana"])
def test_in_scripts_without_spaces_characters_are_words(text):
    assert joined(text.format(""), text.format("也"))
    assert joined(text.format(""), " ".join(text.format("")))
    assert not joined(text.format(""), text.format("")[::-1])
    near = [ask(text.format(x)) for x in "一二三四五六七八九十东西"]
    assert len(set(components(near).roots)) == 1, "one character that differs is no request"


def test_being_one_is_passed_on():
    first, second = LONG.format("hum").split(), LONG.format("hum").split()
    second[0], third = "kindly", [*second[:-1], "woods"]
    third = ["so", *third]
    assert joined(*(" ".join(p) for p in (first, second, third)))


def test_the_words_of_a_template_are_no_request():
    """Twelve requests under one long template that is not ours stay twelve; the same request under two is one."""
    requests = [" ".join(f"{w}{n}" for w in WORDS) for n in range(12)]
    one = [ask(LONG.format(r), "story") for r in requests]
    other = [
        ask(f"{' '.join(f'pre{n}' for n in range(60))} {r} {' '.join(f'post{n}' for n in range(60))}", "game")
        for r in requests
    ]
    assert len(set(components(one).roots)) == 12
    assert len(set(components([*one, *other]).roots)) == 12
    assert len(set(components([*one, *other, *map(ask, requests)]).roots)) == 12
    assert len(set(components(other[:9]).roots)) == 1, (
        "too few prompts to tell a template from near-duplicates"
    )


@pytest.mark.parametrize("others", [0, 9])
@pytest.mark.parametrize("step", [0, 7])
def test_near_duplicates_that_fill_a_stratum_are_no_template(step, others):
    """Each differs from the rest in a word, in one place or in another: most have all other words."""
    base = [f"word{n}" for n in range(100)]
    items = [ask(" ".join([*base[: 10 + n * step], f"new{n}", *base[11 + n * step :]])) for n in range(12)]
    assert all(joined(a.prompt, b.prompt) for a, b in combinations(items, 2))
    found = components([*items, *distinct(others)])
    assert len(set(found.roots)) == 1 + others
    assert found.templated == 0
    with pytest.raises(UserError, match="1 clusters are in both"):
        prove_disjoint(battery(*items[:6], *distinct(others)), battery(*items[6:]))


def test_an_item_with_few_words_of_its_own_is_compared_whole():
    """Also where most items of the stratum are different requests under one template."""
    requests = [" ".join(f"{w}{n}" for w in WORDS) for n in range(12)]
    long = f"{' '.join(f'pre{n}' for n in range(60))} {LONG}"
    assert joined(long.format("hum"), long.format("sing"))
    found = components([ask(long.format(r)) for r in (*requests, "hum", "sing")])
    assert len(set(found.roots)) == 13
    assert found.templated == 12


def test_a_template_of_few_words_does_not_hide_near_duplicates():
    """A word in fifty differs, and 8 of the 50 are a template's: without them less than 4 of 5 would be equal."""
    end = [f"end{k}" for k in range(8)]
    own = [[f"w{n}x{k}" for k in range(42)] for n in range(12)]
    twin = [*own[0][:20], "other", *own[0][21:]]
    assert not joined(" ".join(own[0]), " ".join(twin))
    found = components([ask(" ".join([*text, *end])) for text in (*own, twin)])
    assert found == ([*range(12), 0], 0)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not here")
def test_jailbreaks_of_one_template_stay_apart():
    published = load_battery(str(PUBLISHED)).items
    items = [replace(i, cluster="", id="") for i in published if i.task == "jailbreak_amplification"]
    dan = [i for i in items if i.category == "dan_style"]
    assert len(dan) == 30
    assert components(dan) == (list(range(30)), 30)
    found = components(items)
    assert len(set(found.roots)) == 30, "the four styles of one behaviour are one request"


def test_a_filled_slot_is_compared_under_its_own_template_only():
    lands = [f"land{n}" for n in range(12)]
    capital = [ask(f"What in your opinion is the name of the capital of {x}?", "capital") for x in lands]
    river = [ask(f"Tell me now which river is the longest one in {x}?", "river") for x in lands]
    assert len(set(components([*capital, *river]).roots)) == 24


def same(a: Item, b: Item) -> bool:
    """Whether two items are one request, compared in the plainest way."""
    if a.cluster == b.cluster or words(a.prompt) == words(b.prompt):
        return True
    one, two = (words(i.prompt) for i in (a, b))
    short, long = sorted((one, two), key=len)
    if len(short) >= GRAM and any(long[k : k + len(short)] == short for k in range(len(long))):
        return True
    x, y = ({w[k : k + GRAM] for k in range(len(w) - GRAM + 1)} for w in (one, two))
    return bool(x | y) and len(x & y) >= 0.8 * len(x | y)


def oracle(items: list[Item]) -> list[int]:
    """Every pair compared; at most 9 items, so that no template is looked for."""
    label = list(range(len(items)))

    for (i, a), (j, b) in combinations(enumerate(items), 2):
        if same(a, b):
            low, high = sorted((label[i], label[j]))
            label = [low if x == high else x for x in label]
    return label


@st.composite
def small_batteries(draw, most: int = 9) -> list[Item]:
    """Prompts of few words, so that near-duplicates are common."""
    bases = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=1, max_size=3))
    items = []
    for number in range(draw(st.integers(2, most))):
        text = list(draw(st.sampled_from(bases)))
        for _ in range(draw(st.integers(0, 2))):
            text.insert(draw(st.integers(0, len(text))), draw(st.sampled_from(WORDS)))
        cluster = draw(st.sampled_from(["", "", "", "shared"]))
        axis = draw(st.sampled_from(["harmful_compliance", "over_refusal"]))
        items.append(
            Item(" ".join(text), axis, draw(st.sampled_from("tu")), cluster=cluster, id=f"item-{number}")
        )
    return items


@settings(deadline=None)
@given(small_batteries())
def test_components_are_those_of_comparing_every_pair(items):
    found = components(items).roots
    expected = oracle(items)
    assert [found[i] == found[j] for i, j in combinations(range(len(items)), 2)] == [
        expected[i] == expected[j] for i, j in combinations(range(len(items)), 2)
    ]


# --- Splits ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(small_batteries(most=20), st.floats(0.1, 0.9), st.text(max_size=3), st.randoms(use_true_random=False))
def test_sides_are_disjoint_whole_and_the_same_in_any_order(items, share, salt, rng):
    whole = battery(*items)
    try:
        done = split(whole, share, salt)
    except UserError:
        assume(False)
    ids = [[i.id for i in side.items] for side in (done.tuning, done.evaluation)]
    assert sorted(ids[0] + ids[1]) == sorted(i.id for i in items)
    assert all(ids)
    clusters = [{i.cluster for i in side.items} for side in (done.tuning, done.evaluation)]
    assert clusters[0].isdisjoint(clusters[1])
    if not done.templated:
        assert not any(same(a, b) for a in done.tuning.items for b in done.evaluation.items)
    proof = prove_disjoint(done.tuning, done.evaluation)
    assert proof.templated == done.templated
    assert proof.items == (len(ids[0]), len(ids[1]))
    assert proof.clusters == done.clusters
    shuffled = list(items)
    rng.shuffle(shuffled)
    again = split(battery(*shuffled), share, salt)
    assert again == done
    assert [[i.id for i in side.items] for side in again[:2]] == ids


def test_axes_and_tasks_are_divided_in_the_share_asked_for():
    items = [
        *distinct(40),
        *distinct(21, task="u"),
        *distinct(30, "over_refusal"),
        *distinct(10, "capability"),
    ]
    for share, counts in ((0.5, (20, 10, 15, 5)), (0.2, (8, 4, 6, 2))):
        tuning = split(battery(*items), share).tuning
        found = Counter((i.axis, i.task) for i in tuning.items)
        strata = [
            ("harmful_compliance", "t"),
            ("harmful_compliance", "u"),
            ("over_refusal", "t"),
            ("capability", "t"),
        ]
        assert all(abs(found[s] - wanted) <= 1 for s, wanted in zip(strata, counts, strict=True)), found


def test_another_salt_divides_otherwise():
    whole = battery(*distinct(40))
    assert split(whole, salt="a") == split(whole, salt="a")
    assert split(whole, salt="a").tuning != split(whole, salt="b").tuning


def test_variants_of_a_request_stay_together():
    wrapped = wrap(battery(*distinct(20)), list(WRAPPERS))
    loose = battery(*(replace(i, cluster="", id="") for i in wrapped.items))
    for whole in (wrapped, loose):
        done = split(whole)
        assert done.clusters == (10, 10)
        assert (len(done.tuning.items), len(done.evaluation.items)) == (40, 40)
    assert done.merged == 60


def test_near_duplicates_are_counted():
    items = distinct(8)
    twins = [replace(i, prompt=i.prompt.upper() + "!", cluster="", id="") for i in items[:3]]
    assert split(battery(*items, *twins)).merged == 3


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(UserError, match="between 0 and 1"):
        split(battery(*distinct(4)), share)


def test_one_request_cannot_be_split():
    with pytest.raises(UserError, match="toy has 1 independent clusters: one side would be empty"):
        split(battery(ask("hum a tune"), ask("Hum a tune!")))


def test_the_files_are_the_same_bytes_in_any_order(tmp_path):
    items = list(load_battery("starter").items)
    names = ("tuning.jsonl", "evaluation.jsonl", "split.json")
    for folder in ("a", "b"):
        write_split(battery(*items), tmp_path / folder, salt="s")
        random.Random(3).shuffle(items)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    record = json.loads((tmp_path / "a" / "split.json").read_text())
    assert record["battery"]["sha256"] == battery(*items).sha256
    assert record["salt"] == "s"
    assert record["items"]["capability"] == {"tuning": 100, "evaluation": 100}
    for side in ("tuning", "evaluation"):
        assert load_battery(str(tmp_path / "a" / f"{side}.jsonl")).sha256 == record["sha256"][side]


def test_this_very_split_never_changes_between_releases():
    tuning = split(battery(*distinct(12)), salt="frozen").tuning
    assert [i.id for i in tuning.items] == FROZEN


FROZEN = [
    "1504d636a443833b",
    "2e38ef1adf24a5af",
    "68938070999fbcee",
    "b77e171483b46d1e",
    "dbd7fffdc7439e34",
    "f5d8b72c85bbf48f",
]


# --- Disjoint -------------------------------------------------------------------------------------------


def test_shared_requests_are_named_by_id_alone():
    a = battery(*distinct(3), ask("hum a tune", id="hum"))
    b = replace(battery(ask("Hum a tune!", id="hum-too"), ask("bake a cake now")), name="other")
    with pytest.raises(UserError, match=r"1 clusters are in both: hum of toy, hum-too of other") as error:
        prove_disjoint(a, b)
    assert "tune" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"id": "hum", "prompt": "bake a cake now"}, {"cluster": "hum", "prompt": "bake a cake now"}]
)
def test_an_id_or_a_cluster_in_both_is_shared_whatever_the_prompt(change):
    a = battery(ask("hum a tune", id="hum"))
    with pytest.raises(UserError, match="in both"):
        prove_disjoint(a, battery(replace(a.items[0], **{"id": "new", "cluster": "own", **change})))


def test_many_shared_ids_are_counted():
    a = battery(*distinct(30))
    with pytest.raises(UserError, match=r"30 clusters are in both: .* and 20 more of toy"):
        prove_disjoint(a, a)
