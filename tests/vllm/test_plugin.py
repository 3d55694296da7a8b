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
    "Write a short note that thanks a neighbour for watering the plants.",
    "Tell me a story of a lighthouse keeper who collects clocks.",
    "How can I get into a locked car that is mine?",
)
PROMPTS = [TOKENIZER.chat(q) for q in QUESTIONS]
LONG = 24
TYPICAL = {"specsafe_rule": "typical:epsilon=0.09,delta=0.3"}
ALL = {"specsafe_rule": "leak:rate=1"}
CRS = {"specsafe_method": "ssd-crs"}
GREEDY = ["greedy", "agreement", "relaxed:top_k=1", "leak:rate=0", "typical:posterior_temperature=0"]
RULES = ["agreement", "rejection", "block", "typical", "threshold:threshold=0.3", "accumulated:threshold=0.1"]
RULES += ["relaxed:top_k=3,delta=0.3", "lenient:beta=0.5", "leak:rate=0.5"]
METHODS = ["ssd", "ssd-crs", "ssd-crs-trie", "continuous", "composite:union.alpha=0.75", "vanilla"]


def tokens(answers) -> list[list[int]]:
    return [a.tokens for a in answers]


def each(llm, fields, **sampling) -> list[list]:
    """The answers to all prompts for each of some fields, two fields a batch: so many the cache holds at once."""
    found = []
    for pair in (fields[i : i + 2] for i in range(0, len(fields), 2)):
        answers = ask(llm, PROMPTS * len(pair), [f for f in pair for _ in PROMPTS], limits=LONG, **sampling)
        found += [answers[i : i + len(PROMPTS)] for i in range(0, len(answers), len(PROMPTS))]
    return found


def share(answers) -> tuple[int, int]:
    return sum(a.accepted for a in answers), sum(a.drafted for a in answers)


@pytest.fixture(scope="session")
def standard(llm):
    """Answers by vLLM's own rule, under our worker."""
    return each(llm, [{"specsafe_rule": "standard"}])[0]


def test_the_worker_tells_its_rule_and_what_it_decided(llm, standard):
    (report,) = llm.collective_rpc("specsafe_report")
    assert (report["setting"], report["lossless"], report["drafts"]) == ("standard", True, True)
    counted = report["decided"]["standard"]
    assert counted["drafted"] >= share(standard)[1] > 30
    before = report["decided"].get(setting("rule", "typical").text, {"drafted": 0})["drafted"]
    (answers,) = each(llm, [TYPICAL])
    (report,) = llm.collective_rpc("specsafe_report")
    decided = report["decided"][setting("rule", "typical").text]
    assert decided["drafted"] - before == share(answers)[1]
    assert llm.collective_rpc("rows_left") == [0]


def test_the_standard_rule_says_what_our_engine_says_up_to_near_ties(standard):
    """Each answer is our target's greedy one, or leaves it where two tokens are as good as equal."""
    network = LlamaNetwork(load_checkpoint(MODELS / "target", torch.float32), CPU)
    plan = Plan(
        Agreement(), StopRule(TOKENIZER.end_ids, (), LONG, TOKENIZER.bytes_of), slots=8, capacity=400, top=2
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
    for rule, answers in zip(GREEDY, each(llm, [{"specsafe_rule": rule} for rule in GREEDY]), strict=True):
        assert tokens(answers) == tokens(standard), rule
        assert share(answers) == share(standard), rule


def test_lossy_rules_accept_more_and_answer_otherwise(llm, standard):
    """The looser the bound, the larger the share of what is drafted that stands; a leak of everything leaves nothing out."""
    bounds = ("epsilon=0.09,delta=0.3", "epsilon=0.01,delta=0.03")
    fields = [*({"specsafe_rule": f"typical:{b}"} for b in bounds), ALL]
    strict, loose, everything = each(llm, fields, ignore_eos=True)
    rates = [accepted / drafted for accepted, drafted in map(share, (standard, strict, loose, everything))]
    assert rates[0] < rates[1] < rates[2] < rates[3] == 1
    for answers in (strict, loose, everything):
        assert sum(a != b for a, b in zip(tokens(answers), tokens(standard), strict=True)) >= 2


def test_composites_move_from_the_target_to_the_draft(llm, standard):
    """Alpha 0 is the target; the larger alpha, the more of what is drafted stands, and at 1 all of it."""
    alphas = (0, 0.5, 1)
    found = each(llm, [{"specsafe_method": f"composite:union.alpha={a}"} for a in alphas])
    assert tokens(found[0]) == tokens(standard) != tokens(found[1])
    (report,) = llm.collective_rpc("specsafe_report")
    decided = [report["decided"][f"method composite:union.alpha={a}"] for a in alphas]
    rates = [d["accepted"] / d["drafted"] for d in decided]
    assert rates[0] < rates[1] < rates[2] == 1


def test_requests_of_one_batch_are_decided_by_their_own_rules(llm, standard):
    """Mixed in one batch, each request is answered as in a batch of its own kind."""
    kinds = [TYPICAL, {"specsafe_rule": "standard"}, ALL, CRS]
    apart = [tokens(answers)[:2] for answers in each(llm, kinds)]
    mixed = tokens(ask(llm, PROMPTS[:2] * len(kinds), [k for k in kinds for _ in range(2)], limits=LONG))
    assert [mixed[i : i + 2] for i in range(0, len(mixed), 2)] == apart
    assert apart[1] == tokens(standard)[:2]
    assert len({str(a) for a in apart}) == len(kinds)


def test_an_answer_of_a_method_does_not_hang_on_order_or_neighbours(llm):
    (together,) = each(llm, [CRS])
    backwards = ask(llm, PROMPTS[::-1], CRS, limits=LONG)
    assert tokens(backwards)[::-1] == tokens(together)
    assert tokens(ask(llm, PROMPTS[2:3], CRS, limits=LONG)) == tokens(together[2:3])


def test_the_log_probabilities_are_those_of_the_tokens_that_are_said(llm):
    """As one prefill over prompt and answer tells them: the audit of an answer needs no second model."""
    for fields in (TYPICAL, CRS):
        answers = ask(llm, PROMPTS, fields, logprobs=0, limits=LONG)
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
    from vllm.exceptions import VLLMValidationError

    for fields, sampling, said in REFUSED:
        with pytest.raises(VLLMValidationError, match=said):
            ask(llm, PROMPTS[:1], fields, **sampling)
    assert tokens(each(llm, [{"specsafe_rule": "standard"}])[0]) == tokens(standard)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_all_in_one_batch_decide_as_our_engine_does_on_the_same_logits(llm, tmp_path, temperature):
    """Every rule, and at temperature 0 every method, each for a request of one batch: the same tokens, bit for bit."""
    fields = [{"specsafe_rule": r} for r in RULES]
    fields += [] if temperature else [{"specsafe_method": m} for m in METHODS]
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(fields))]
    heard, answers = recorded(llm, tmp_path, fields, prompts, temperature=temperature, seed=3, limits=LONG)
    assert replayed(heard) >= sum(a.drafted for a in answers) > 0
    assert len({w["setting"] for w in heard}) == len(fields)


def test_state_is_right_through_preemption_and_requests_of_all_lengths(llm, tmp_path):
    """More requests than the cache holds: some are put aside and read again, and each keeps its controller."""
    prompts = [TOKENIZER.chat(q + " " + "again " * n) for n in (10, 40, 70) for q in QUESTIONS]
    limits = [30 + 10 * (i % 5) for i in range(len(prompts))]
    before = metric(llm, "vllm:num_preemptions")
    heard, answers = recorded(llm, tmp_path, CRS, prompts, limits=limits, ignore_eos=True)
    assert metric(llm, "vllm:num_preemptions") > before
    assert [len(a.tokens) for a in answers] == limits
    assert replayed(heard) >= sum(a.drafted for a in answers)
    again = ask(llm, prompts, CRS, limits=limits, ignore_eos=True)
    assert tokens(again) == tokens(answers)
    assert llm.collective_rpc("rows_left") == [0]


def recorded(llm, folder: Path, fields, prompts, **sampling):
    """What the sampler was given and said while prompts are answered, and the answers."""
    llm.collective_rpc("record", args=("",))
    answers = ask(llm, prompts, fields, **sampling)
    llm.collective_rpc("record", args=(str(folder / "heard.pt"),))
    return torch.load(folder / "heard.pt"), answers


def replayed(heard) -> int:
    """Each request's windows through our engine's own decider, alone; the draft tokens that were checked."""
    by_request = defaultdict(list)
    for window in heard:
        if window["drafted"] and not window["discarded"]:
            by_request[window["request"]].append(window)
    for windows in by_request.values():
        decider = decider_of(windows[0])
        for window in windows:
            n, drafted = len(window["drafted"]), torch.tensor(window["drafted"])
            slots = n + decider.bonus
            counters = slot_positions(torch.tensor([window["done"]]), slots, fresh=decider.looks_ahead)
            acceptance = decider.decide(
                window["logits"][None, :slots],
                Draft(Proposal(drafted[None], torch.tensor([n])), window["draft"][None]),
                Clock(torch.tensor([window["key"]]), counters),
            )
            kept = int(acceptance.accepted[0])
            own = [int(acceptance.token[0])] if decider.bonus or kept < n else []
            assert window["said"] == [*window["drafted"][:kept], *own], window["setting"]
    return sum(len(w["drafted"]) for windows in by_request.values() for w in windows)


def decider_of(window):
    """What decides on our engine by the setting of a request."""
    text = window["setting"]
    if not text.startswith("method "):
        return RuleDecider(setting("rule", text).rule, window["temperature"])
    method = setting("method", text.removeprefix("method ")).method
    words = first_tokens(TOKENIZER.encode, WORDS, CPU)
    if method.openings == "trie":
        pieces = ((t, TOKENIZER.bytes_of(t)) for t in range(TOKENIZER.vocab_size))
        words = trie(TOKENIZER.encode, pieces, WORDS, CPU)
    decider = MethodDecider(method, words, telemetry=False, words=WORDS)
    decider.join([Prompt("", (1,))])
    return decider
