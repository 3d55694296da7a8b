"""Room: decoding/safety. From logits to candidates and a token, against plain scans over whole sorted vocabularies."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from specsafe.decoding.drafters import Clock
from specsafe.decoding.rules import Proposal
from specsafe.decoding.safety.choose import Allowed, allowed, candidates, gap, pick, taken
from specsafe.decoding.safety.methods import METHODS, find
from specsafe.decoding.safety.parts import Choice, Method
from specsafe.decoding.safety.signals import Openings, distances, first_tokens, spellings, trie
from specsafe.decoding.safety.views import Views, longer, look, wanted

CPU = torch.device("cpu")
NO_OPENINGS = first_tokens(lambda text: [0], 1, CPU)
Pair = tuple[torch.Tensor, torch.Tensor]


def pairs() -> Iterator[tuple[str, Pair]]:
    """Logits of target and draft [N, V]: alike, unlike, in reverse order, few values (so full of ties), equal."""
    made = torch.Generator().manual_seed(7)
    for words in (40, 131, 700):
        n = 120
        one, other = (torch.randn((n, words), generator=made) for _ in range(2))
        yield "alike", (one, one + 0.3 * other)
        yield "unlike", (one, other)
        yield "reversed", (one, -one)
        yield "coarse", ((2 * one).round(), (2 * one + other).round())
        yield "bfloat16", ((9 + one).bfloat16().float(), (9 + one + 0.5 * other).bfloat16().float())
        yield "two values", ((one > 0.5).float(), (other > 0).float())
        yield "apart", (one - 50.0 * (torch.arange(words) % 2), other - 50.0 * (torch.arange(words) % 2 == 0))
        yield "equal", (torch.zeros(4, words), torch.zeros(4, words))


def ranked(logits: torch.Tensor) -> list[list[int]]:
    """All ids of each row in order, of equal ones the lower first."""
    return torch.sort(logits, stable=True, dim=-1, descending=True).indices.tolist()


PAIRS = [(name, pair, list(zip(*map(ranked, pair), strict=True))) for name, pair in pairs()]


def begun(choice: Choice, pair: Pair) -> Views:
    """The views of rows [N, V] as N rows of one slot."""
    rows, words = pair[0].shape
    proposal = Proposal(torch.zeros((rows, 1), dtype=torch.int64), torch.ones(rows, dtype=torch.int64))
    clock = Clock(torch.arange(rows), torch.zeros((rows, 2), dtype=torch.int64))
    want = wanted(Method("", choice, choice), NO_OPENINGS, words, telemetry=False)
    return look(pair[0][:, None], pair[1][:, None], proposal, clock, want)


def seen(choice: Choice, pair: Pair) -> tuple[Views, Allowed]:
    """Views and sets; lists grow as in the loop."""
    views, (logits, draft) = begun(choice, pair), (x[:, None] for x in pair)
    length, words = views.table.ids.shape[-1] // 2, logits.shape[-1]
    while (sets := allowed(choice, views.table)).short.any():
        assert length < words
        length = min(4 * length, words)
        views = longer(views, logits, draft, length, words)
    return views, sets


def scan(ours: list[int], theirs: list[int], count: int) -> tuple[int, set[int]]:
    """The published search: k grows by one until the k likeliest of both share `count` tokens."""
    k = min(count, len(ours))
    while len(set(ours[:k]) & set(theirs[:k])) < min(count, len(ours)):
        k += 1
    return k, set(ours[:k]) & set(theirs[:k])


def members(sets: Allowed, views: Views, row: int) -> set[int]:
    """The tokens of the set of a row; each is there once."""
    inside = views.table.ids[row, 0][sets.inside[row, 0]].tolist()
    assert len(set(inside)) == len(inside) == int(sets.size[row, 0])
    return set(inside)


@pytest.mark.parametrize("count", [1, 5, 10, 37])
def test_the_closed_form_of_the_smallest_k_is_what_a_scan_finds(count: int) -> None:
    """Thousands of pairs; lists of 32 do not do for those that share little."""
    for name, pair, orders in PAIRS:
        choice = Choice("min_k", count=count)
        views, sets = seen(choice, pair)
        for row, (ours, theirs) in enumerate(orders):
            k, both = scan(ours, theirs, count)
            assert (int(sets.k[row, 0]), members(sets, views, row)) == (k, both), (name, row)
            assert not sets.guarded[row, 0]


@pytest.mark.parametrize("fallback", ["target", "target_top", "union"])
@pytest.mark.parametrize("guard", [0, 1, 2])
def test_other_sets_and_what_takes_their_place(guard: int, fallback: str) -> None:
    fallen = 0
    for kind in ("min_k", "top_k", "union"):
        choice = Choice(kind, count=6, guard=guard, fallback=fallback)  # type: ignore[arg-type]
        for name, pair, orders in PAIRS[:16]:
            views, sets = seen(choice, tuple(x[:40] for x in pair))  # type: ignore[arg-type]
            for row, (ours, theirs) in enumerate(orders[:40]):
                top, other = set(ours[:6]), set(theirs[:6])
                inside = {"min_k": scan(ours, theirs, 6)[1], "top_k": top & other, "union": top | other}[kind]
                guarded = not inside or bool(guard and not inside & set(ours[:guard]))
                if guarded:
                    inside = {"target": {ours[0]}, "target_top": top, "union": top | other}[fallback]
                assert members(sets, views, row) == inside, (kind, name, row)
                assert bool(sets.guarded[row, 0]) == guarded
                fallen += guarded
    assert fallen > 100


@pytest.mark.parametrize(
    ("kind", "alpha"), [*((k, a) for k in ("min_k", "union", "all") for a in (0.0, 0.3, 1.0)), ("union", 2.0)]
)
def test_the_best_of_a_set_is_its_largest_mixture(kind: str, alpha: float) -> None:
    """Over the vocabulary too, of which the lists hold a small part. At alpha 0 the first of equals is the target's."""
    choice = Choice(kind, alpha=alpha)  # type: ignore[arg-type]
    for name, pair, orders in PAIRS:
        views, sets = seen(choice, pair)
        alphas = np.full((len(orders), 1), alpha)
        tokens = taken(views.table.ids, pick(sets.inside, views.table, alphas))[:, 0]
        gaps = gap(sets.inside, views.table, alphas)[:, 0]
        p, q = (x.double().softmax(-1).numpy() for x in pair)
        score = p + alpha * (q - p)
        for row, (ours, _) in enumerate(orders):
            inside = ours if kind == "all" else sorted(members(sets, views, row), key=ours.index)
            values = score[row, inside]
            best = int(values.argmax())
            assert score[row, tokens[row]] == pytest.approx(values[best], abs=1e-9, rel=1e-6), (name, row)
            assert tokens[row] == inside[best] or alpha
            if len(inside) > 1:
                two = np.sort(values)[-2:]
                assert gaps[row] == pytest.approx(two[1] - two[0], abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["min_k", "union", "all"])
def test_a_choice_among_equals_does_not_depend_on_how_long_the_lists_are(kind: str, alpha: float) -> None:
    """They grow for the sake of a neighbour, or for telemetry; at alpha 1 the draft's equals tie, which bfloat16 has often."""
    choice, told = Choice(kind, alpha=alpha), 0  # type: ignore[arg-type]
    for _, (ours, theirs), _ in PAIRS:
        views, sets = seen(choice, (ours, theirs))
        words = ours.shape[-1]
        whole = longer(views, ours[:, None], theirs[:, None], words, words)
        alphas = np.full((len(ours), 1), alpha)
        short, long = (
            taken(v.table.ids, pick(s.inside, v.table, alphas))
            for v, s in ((views, sets), (whole, allowed(choice, whole.table)))
        )
        assert np.array_equal(short, long)
        told += int((theirs[:, None] == theirs.amax(-1)[:, None, None]).sum() > len(ours))
    assert told > 5


def test_lists_hold_what_a_controller_counts_as_a_match() -> None:
    changes = {"intersection.kind": "top_k", "union.kind": "all", "union.count": 500}
    method = find("ssd", {"control.match": "top", **changes})
    assert wanted(method, NO_OPENINGS, 49_152, telemetry=False).length == 500


def test_ranks_of_tokens_on_both_lists() -> None:
    ids = np.array([[5, 9, 2, 9, 7, 5]])
    table = candidates(ids, np.zeros((1, 6)), np.zeros((1, 6)))
    far = 1 << 40
    assert table.target_rank.tolist() == [[0, 1, 2, 1, far, 0]]
    assert table.draft_rank.tolist() == [[2, 0, far, 0, 1, 2]]


@pytest.mark.parametrize("words", [128 * 2 * 64, 128 * 2 * 64 + 1])
@pytest.mark.parametrize("length", [1, 32, 300])
def test_the_likeliest_are_those_of_a_full_sort(words: int, length: int) -> None:
    """By blocks where the vocabulary is long and whole blocks, otherwise over all of it; with ties inside and at the end."""
    made = torch.Generator().manual_seed(3)
    for step in (1.0, 0.01):
        ours, theirs = (
            (4 * torch.randn((30, words), generator=made) / step).round() * step for _ in range(2)
        )
        ours[0, 500:530] = ours[0].max()
        ours[1] -= ours[1].max()  # zeros of both signs, and nothing above
        theirs[2, : words - 5] = -math.inf
        views = begun(Choice("top_k"), (ours, theirs))
        views = longer(views, ours[:, None], theirs[:, None], length, words)
        whole = torch.cat([torch.tensor(ranked(x))[:, :length] for x in (ours, theirs)], 1).numpy()
        assert np.array_equal(views.table.ids[:, 0], whole)
        for told, x in ((views.table.p, ours), (views.table.q, theirs)):
            assert np.allclose(told[:, 0], np.take_along_axis(x.double().softmax(-1).numpy(), whole, 1))
    flat = torch.zeros(1, words)
    views, _ = seen(Choice("min_k"), (flat, flat))
    assert views.table.ids[0, 0, :10].tolist() == list(range(10))


@pytest.mark.parametrize("words", [500, 49_153])
@pytest.mark.parametrize("nan", [math.nan, math.copysign(math.nan, -1)])
def test_rows_without_numbers_are_seen_and_leave_the_others_as_they_are(nan: float, words: int) -> None:
    logits = torch.randn((4, words), generator=torch.Generator().manual_seed(5))
    broken = logits.clone()
    broken[1, 30], broken[2] = nan, nan
    for pair in ((logits, broken), (broken, logits)):
        views, whole = (seen(Choice("top_k"), p)[0] for p in (pair, (logits, logits)))
        assert views.finite[:, 0].tolist() == [True, False, False, True]
        assert np.array_equal(views.table.ids[[0, 3]], whole.table.ids[[0, 3]])


def test_distances_are_those_of_their_formulas() -> None:
    made = torch.Generator().manual_seed(1)
    logits, draft = (5 * torch.randn((9, 300), generator=made) for _ in range(2))
    logits[1, 7], draft[2, 9], logits[3] = -math.inf, -math.inf, draft[3]
    logits[4, :5] += 500.0  # everything else is less likely than any number can say
    p, q = logits.softmax(-1), draft.softmax(-1)
    told = distances(logits, draft, p, q)
    zs = logits.double().logsumexp(-1), draft.double().logsumexp(-1)
    for one, other in zip(told, distances(logits, draft, p, q, zs), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    logp, logq = (x.double().log_softmax(-1) for x in (logits, draft))
    one, other = logp.exp(), logq.exp()
    logp, logq = logp.clamp(min=-100), logq.clamp(min=-100)
    assert torch.allclose(told.kl, (other * (logq - logp)).sum(-1), rtol=1e-5, atol=1e-5)
    entropies = (other * logq).sum(-1) - (one * logp).sum(-1)
    assert torch.allclose(told.gap, entropies.clamp(min=0) / math.log(300), atol=1e-5)
    assert told.kl[3] == told.gap[3] == 0


def test_distances_of_a_row_do_not_depend_on_how_many_there_are() -> None:
    """Nor does what else is seen of it; torch splits one long sum among threads, and not several."""
    made, threads = torch.Generator().manual_seed(1), torch.get_num_threads()
    pair = tuple(4 * torch.randn((35, 40_000), generator=made) for _ in range(2))
    try:
        torch.set_num_threads(2)
        method = METHODS["ssd-crs"]
        want = wanted(method, first_tokens(lambda text: [len(text)], 40_000, CPU), 40_000, telemetry=True)

        def part(rows: slice) -> Views:
            logits, draft = (x[rows, None] for x in pair)
            proposal = Proposal(draft.argmax(-1), torch.ones(len(draft), dtype=torch.int64))
            clock = Clock(torch.arange(35)[rows], torch.zeros((35, 2), dtype=torch.int64)[rows])
            return look(logits, draft, proposal, clock, want)

        whole = part(slice(None))
        for rows in (slice(0, 1), slice(17, 18), slice(4, 7), slice(20, 35)):
            some = part(rows)
            for name in ("kl", "gap", "told", "openings", "own"):
                assert np.array_equal(getattr(some, name), getattr(whole, name)[rows]), (name, rows)
            assert np.array_equal(some.table.p, whole.table.p[rows])
    finally:
        torch.set_num_threads(threads)


def test_only_what_a_method_uses_is_computed() -> None:
    words = first_tokens(lambda text: [len(text)], 100, CPU)

    def used(name: str, **changes: float) -> tuple[int, bool, bool, bool]:
        want = wanted(
            find(name, {f"control.{k}": v for k, v in changes.items()}), words, 100, telemetry=False
        )
        return want.length, want.distances, len(want.openings) > 0, want.coins

    assert used("vanilla") == (1, False, False, False)
    assert used("ssd") == used("safedecoding") == (64, False, False, False)
    assert used("ssd-crs") == used("ssd-crs-best") == (64, True, True, False)
    assert used("ssd-crs", openings=0) == (64, True, False, False)
    assert used("ssd-crs", kl=0, entropy_gap=0) == (64, False, True, False)
    assert used("random-mode") == (64, False, False, True)
    assert used("aasd-frozen") == (10, False, False, True)
    assert used("continuous") == (32, True, True, False)


def walked(openings: Openings, tokens: list[int], q: np.ndarray) -> list[float]:
    """The mass before each token of one row that begins at an opening."""
    node, told = np.zeros(1, int), []
    for token in tokens:
        told.append(float(openings.mass(q[openings.words.numpy()][None], node)[0]))
        node = openings.step(node, np.array([token]))
    return told


def test_openings_are_looked_for_along_a_trie() -> None:
    """A token a letter: at every place of an opening its next letters have the mass, elsewhere nothing has."""
    q = np.random.default_rng(0).random(400)
    whole = trie(lambda text: [ord(c) % 400 for c in text], [(33, b"!"), (32, b" ")], 400, CPU)
    texts = [[ord(c) % 400 for c in text] for text in spellings()]
    for text in texts[::7]:
        for n, mass in enumerate(walked(whole, text, q)):
            onward = {t[n] for t in texts if t[:n] == text[:n] and len(t) > n}
            assert mass == pytest.approx(sum(q[t] for t in onward))
    astray = walked(whole, [*texts[0][:3], 399, *texts[0], 33, texts[0][0]], q)
    assert astray[4:-2] == [0.0] * (len(astray) - 6)
    assert astray[-1] == astray[0] > 0  # after the end of a sentence an opening may begin
    first = first_tokens(lambda text: [ord(text[0]) % 400], 400, CPU)
    assert walked(first, [5, 6, 7], q) == [pytest.approx(q[ord("I")] + q[ord("S")])] * 3
