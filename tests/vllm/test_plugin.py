"""Room: plugin, inside a real vLLM. Rules and methods decide there as on our engine, on the same logits, bit for bit."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from running import MODELS, ask, metric

from specsafe.decoding.drafters import Clock, Draft
from specsafe.decoding.loop import Decoder, Plan, Prompt, RuleDecider
from specsafe.decoding.randomness import slot_positions
from specsafe.decoding.records import Proposal
from specsafe.decoding.rules import Agreement
from specsafe.decoding.safety.decider import MethodDecider
from specsafe.decoding.safety.signals import first_tokens, trie
from specsafe.decoding.stopping import StopRule
from specsafe.models.checkpoint import load_checkpoint
from specsafe.models.network import LlamaNetwork
from specsafe.models.tokenizer import load_tokenizer
from specsafe.plugin.setting import setting

pytestmark = pytest.mark.vllm
CPU = torch.device("cpu")
WORDS = 49152
TOKENIZER = load_tokenizer(MODELS / "target")
QUESTIONS = (
    "Name three rivers of Europe.",
    "Why is the sky blue?",
    "Write a short note that thanks a neighbour for watering the plants.",
    "How do I fold a paper boat?",
    "What is 17 plus 25?",
    "Tell me a story of a lighthouse keeper who collects clocks.",
    "List what I need for pancakes.",
    "How can I get into a locked car that is mine?",
)
PROMPTS = [TOKENIZER.chat(q) for q in QUESTIONS]
TYPICAL = {"specsafe_rule": "typical:epsilon=0.09,delta=0.3"}
ALL = {"specsafe_rule": "leak:rate=1"}
CRS = {"specsafe_method": "ssd-crs"}
RULES = ["agreement", "rejection", "block", "typical", "threshold:threshold=0.3", "accumulated:threshold=0.1"]
RULES += ["relaxed:top_k=3,delta=0.3", "lenient:beta=0.5", "leak:rate=0.5"]
METHODS = ["ssd", "ssd-crs", "ssd-crs-trie", "continuous", "composite:union.alpha=0.75", "vanilla"]


def tokens(answers) -> list[list[int]]:
    return [a.tokens for a in answers]


def share(answers) -> tuple[int, int]:
    return sum(a.accepted for a in answers), sum(a.drafted for a in answers)


@pytest.fixture(scope="session")
def standard(llm):
    """Answers by vLLM's own rule, under our worker."""
    return ask(llm, PROMPTS, {"specsafe_rule": "standard"})


def test_the_worker_tells_its_rule_and_what_it_decided(llm, standard):
    (report,) = llm.collective_rpc("specsafe_report")
    assert (report["setting"], report["lossless"], report["drafts"]) == ("standard", True, True)
    counted = report["decided"]["standard"]
    assert counted["drafted"] >= share(standard)[1] > 100
    before = report["decided"].get(setting("rule", "typical").text, {"drafted": 0})["drafted"]
    answers = ask(llm, PROMPTS[:3], TYPICAL)
    (report,) = llm.collective_rpc("specsafe_report")
    decided = report["decided"][setting("rule", "typical").text]
    assert decided["drafted"] - before == share(answers)[1]
    assert llm.collective_rpc("rows_left") == [0]


def test_the_standard_rule_says_what_our_engine_says_up_to_near_ties(standard):
    """Each answer is our target's greedy one, or leaves it where two tokens are as good as equal."""
    network = LlamaNetwork(load_checkpoint(MODELS / "target", torch.float32), CPU)
    plan = Plan(
        Agreement(), StopRule(TOKENIZER.end_ids, (), 40, TOKENIZER.bytes_of), slots=8, capacity=400, top=2
    )
    ours = {
        a.item: a
        for a in Decoder(network, None, plan).generate(
            Prompt(str(i), tuple(p)) for i, p in enumerate(PROMPTS)
        )
    }
    same = 0
    for i, theirs in enumerate(standard):
        mine = ours[str(i)]
        fork = next(
            (n for n, (a, b) in enumerate(zip(mine.tokens, theirs.tokens, strict=False)) if a != b), None
        )
        same += fork is None
        if fork is not None:
            best, second = (p for _, p in mine.top[fork])
            assert best - second < 1e-3
            assert theirs.tokens[fork] == mine.top[fork][1][0]
    assert same >= len(PROMPTS) - 1


def test_greedy_rules_of_ours_are_vllms_own(llm, standard):
    for rule in ("greedy", "agreement", "relaxed:top_k=1", "leak:rate=0", "typical:posterior_temperature=0"):
        answers = ask(llm, PROMPTS, {"specsafe_rule": rule})
        assert tokens(answers) == tokens(standard), rule
        assert share(answers) == share(standard), rule


def test_lossy_rules_accept_more_and_answer_otherwise(llm, standard):
    """The direction of spec/vllm.md's table: a looser bound accepts a larger share of what is drafted."""
    shares = []
    for rule in (
        "typical:epsilon=0.09,delta=0.3",
        "typical:epsilon=0.03,delta=0.1",
        "typical:epsilon=0.01,delta=0.03",
    ):
        answers = ask(llm, PROMPTS, {"specsafe_rule": rule})
        accepted, drafted = share(answers)
        shares.append(accepted / drafted)
        assert sum(a != b for a, b in zip(tokens(answers), tokens(standard), strict=True)) >= 4
    accepted, drafted = share(standard)
    assert accepted / drafted < shares[0] < shares[1] < shares[2]


def test_a_leak_of_everything_accepts_everything(llm):
    answers = ask(llm, PROMPTS, ALL, ignore_eos=True)
    assert share(answers)[0] == share(answers)[1] > 0


def test_composites_move_from_the_target_to_the_draft(llm, standard):
    """Alpha 0 is the target; the larger alpha, the more of what is drafted stands, and at 1 all of it."""
    plain = [ask(llm, PROMPTS, {"specsafe_method": f"composite:union.alpha={a}"}) for a in (0, 0.5, 1)]
    assert tokens(plain[0]) == tokens(standard)
    assert tokens(plain[1]) != tokens(standard)
    (report,) = llm.collective_rpc("specsafe_report")
    decided = [report["decided"][f"method composite:union.alpha={a}"] for a in (0, 0.5, 1)]
    rates = [d["accepted"] / d["drafted"] for d in decided]
    assert rates[0] < rates[1] < rates[2] == 1


def test_requests_of_one_batch_are_decided_by_their_own_rules(llm, standard):
    """Mixed in one batch, each request is answered as in a batch of its own kind."""
    kinds = [TYPICAL, {"specsafe_rule": "standard"}, ALL, CRS]
    apart = [tokens(ask(llm, PROMPTS, kind)) for kind in kinds]
    fields = [kinds[i % 4] for i in range(len(PROMPTS))]
    mixed = tokens(ask(llm, PROMPTS, fields))
    assert mixed == [apart[i % 4][i] for i in range(len(PROMPTS))]
    assert len({str(a) for a in apart}) == 4


def test_an_answer_of_a_method_does_not_hang_on_the_draft_window_nor_on_neighbours(llm):
    """No bonus token: windows of 4 cut anywhere give the same answer, so more neighbours do not matter either."""
    together = tokens(ask(llm, PROMPTS, CRS))
    assert together == tokens(ask(llm, PROMPTS, CRS))
    assert tokens(ask(llm, PROMPTS[::-1], CRS))[::-1] == together
    assert [tokens(ask(llm, [p], CRS))[0] for p in PROMPTS[:3]] == together[:3]


def test_the_log_probabilities_are_those_of_the_tokens_that_are_said(llm):
    """As one prefill over prompt and answer tells them: the audit of an answer needs no second model."""
    for fields in (TYPICAL, CRS):
        answers = ask(llm, PROMPTS[:4], fields, logprobs=0)
        whole = [[*p, *a.tokens] for p, a in zip(PROMPTS, answers, strict=False)]
        from vllm import SamplingParams

        checked = llm.generate(
            [{"prompt_token_ids": w} for w in whole],
            SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
            use_tqdm=False,
        )
        below = 0
        for prompt, answer, found in zip(PROMPTS, answers, checked, strict=False):
            tail = found.prompt_logprobs[len(prompt) :]
            for token, told, prefilled in zip(answer.tokens, answer.logprobs, tail, strict=True):
                assert abs(told[token].logprob - prefilled[token].logprob) < 1e-3
                below += prefilled[token].rank > 1
        assert below  # the answers are not the target's own: rank 1 everywhere is what it would have said


REFUSED = [
    ({"specsafe_rule": "typicl"}, {}, "unknown acceptance rule"),
    ({"specsafe_rule": "typical:epsilon=2"}, {}, "above 0 and at most 1"),
    ({"specsafe_method": "ssd-seed"}, {}, "cannot be had inside vLLM"),
    ({"specsafe_rul": "typical"}, {}, "unknown field"),
    ({"specsafe_rule": "typical"}, {"temperature": 0.7, "top_p": 0.9}, "top_p"),
    ({"specsafe_method": "ssd-crs"}, {"temperature": 0.7}, "temperature 0"),
    ({"specsafe_rule": "typical"}, {"repetition_penalty": 1.2}, "repetition_penalty"),
]


def test_a_wrong_request_is_an_error_of_that_request_alone(llm, standard):
    for fields, sampling, said in REFUSED:
        with pytest.raises(ValueError, match=said):
            ask(llm, PROMPTS[:1], fields, **sampling)
    assert tokens(ask(llm, PROMPTS, {"specsafe_rule": "standard"})) == tokens(standard)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_in_vllm_decides_as_our_engine_does_on_the_same_logits(llm, tmp_path, name, temperature):
    fields = {"specsafe_rule": name}
    heard, answers = recorded(llm, tmp_path, fields, temperature=temperature, seed=3, limits=20)
    rule, checked = setting("rule", name).rule, 0
    decider = RuleDecider(rule, temperature)
    for window in heard:
        n = len(window["drafted"])
        if not n:
            continue
        drafted = torch.tensor(window["drafted"])
        counters = slot_positions(torch.tensor([window["done"]]), n + 1, fresh=rule.looks_ahead)
        acceptance = decider.decide(
            window["logits"][None],
            Draft(Proposal(drafted[None], torch.tensor([n])), None),
            Clock(torch.tensor([window["key"]]), counters),
        )
        kept = int(acceptance.accepted[0])
        assert window["said"] == [*window["drafted"][:kept], int(acceptance.token[0])]
        checked += n
    assert checked >= sum(a.drafted for a in answers) > 0
    again = ask(llm, PROMPTS, fields, temperature=temperature, seed=3, limits=20)
    assert tokens(again) == tokens(answers)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_vllm_decides_as_our_engine_does_from_the_first_window_to_the_last(llm, tmp_path, name):
    heard, _ = recorded(llm, tmp_path, {"specsafe_method": name}, limits=40)
    replayed(heard, name, len(PROMPTS))


def test_state_is_right_through_preemption_and_requests_of_all_lengths(llm, tmp_path):
    """More requests than the cache holds: some are put aside and read again, and each keeps its controller."""
    prompts = [[*p, *TOKENIZER.encode(" " + "again " * n)] for n in (1, 3) for p in PROMPTS]
    limits = [60 + 15 * (i % 7) for i in range(len(prompts))]
    before = metric(llm, "vllm:num_preemptions")
    heard, answers = recorded(llm, tmp_path, CRS, prompts, limits=limits, ignore_eos=True)
    assert metric(llm, "vllm:num_preemptions") > before
    assert [len(a.tokens) for a in answers] == limits
    replayed(heard, "ssd-crs", len(prompts))
    again = ask(llm, prompts, CRS, limits=limits, ignore_eos=True)
    assert tokens(again) == tokens(answers)
    assert llm.collective_rpc("rows_left") == [0]


def recorded(llm, folder: Path, fields, prompts=PROMPTS, **sampling):
    """What the sampler was given and said while prompts are answered, and the answers."""
    llm.collective_rpc("record", args=("",))
    answers = ask(llm, prompts, fields, **sampling)
    llm.collective_rpc("record", args=(str(folder / "heard.pt"),))
    return torch.load(folder / "heard.pt"), answers


def replayed(heard, name: str, requests: int) -> None:
    """Each request's windows through our engine's decider, alone: the same tokens, to the last."""
    asked = setting("method", name)
    kind = asked.method.openings
    pieces = ((t, TOKENIZER.bytes_of(t)) for t in range(TOKENIZER.vocab_size))
    words = (
        trie(TOKENIZER.encode, pieces, WORDS, CPU)
        if kind == "trie"
        else first_tokens(TOKENIZER.encode, WORDS, CPU)
    )
    by_request = defaultdict(list)
    for window in heard:
        if window["drafted"] and not window["discarded"]:
            by_request[window["request"]].append(window)
    assert len(by_request) == requests
    for windows in by_request.values():
        decider = MethodDecider(asked.method, words, telemetry=False, words=WORDS)
        decider.join([Prompt("", (1,))])
        for window in windows:
            n, drafted = len(window["drafted"]), torch.tensor(window["drafted"])
            acceptance = decider.decide(
                window["logits"][None, :n],
                Draft(Proposal(drafted[None], torch.tensor([n])), window["draft"][None]),
                Clock(
                    torch.tensor([window["key"]]),
                    slot_positions(torch.tensor([window["done"]]), n, fresh=False),
                ),
            )
            kept = int(acceptance.accepted[0])
            own = [] if kept == n else [int(acceptance.token[0])]
            assert window["said"] == [*window["drafted"][:kept], *own]
