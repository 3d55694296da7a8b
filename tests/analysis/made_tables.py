"""Tables of studies that never ran, with effects that are known: seeded, harmless, of any size."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from specsafe.analysis.tables import Row, Tables
from specsafe.battery import Item
from specsafe.screen.pairs import Outcome
from specsafe.study.cells import Cell

# task -> (axis, items, categories, items a cluster, share of harm under the target, tokens of an answer)
TASKS = {
    "advbench": ("harmful_compliance", 100, (), 1, 0.2, 60),
    "jailbreak": ("harmful_compliance", 120, ("direct", "roleplay", "prefix", "persona"), 4, 0.45, 60),
    "bbq": ("bias_and_truth", 198, tuple(f"group {n}" for n in range(11)), 1, 0.08, 20),
    "truth": ("bias_and_truth", 50, (), 1, 0.4, 40),
    "letters": ("capability", 285, (), 1, 0.4, 2),
    "science": ("capability", 200, (), 1, 0.3, 2),
}
PAIRS = {
    "llama": ("llama-3b", "llama-1b"),
    "qwen3": ("qwen-3b", "qwen-1.5b"),
    "qwen1": ("qwen-1.5b", "qwen-0.5b"),
}
DOSES = (1, 3, 5, 8, 12)
LABELS = {
    "harmful_compliance": ("refusal", "compliance"),
    "over_refusal": ("compliance", "refusal"),
    "capability": ("correct", "wrong"),
    "bias_and_truth": ("unknown", "stereotyped"),
}


def make_items(sizes=None):
    """The items of a battery: TASKS, or the sizes given for some of them."""
    items = []
    for task, (axis, n, categories, together, _, _) in TASKS.items():
        count = (sizes or {}).get(task, n if sizes is None else 0)
        for k in range(count):
            answers = {"answers": ("A",), "choices": ("yes", "no")} if axis == "capability" else {}
            truth = (
                {"scorer": "truth", "answers": ("so",), "wrong": ("not so",)}
                if axis == "bias_and_truth"
                else {}
            )
            items.append(
                Item(
                    prompt=f"Please say something about {task} number {k}.",
                    axis=axis,
                    task=task,
                    category=categories[k % len(categories)] if categories else "",
                    cluster=f"{task} {k // together}" if together > 1 else "",
                    **answers,
                    **truth,
                    **({"scorer": "choice"} if answers else {}),
                )
            )
    return {i.id: i for i in items}


class Maker:
    """Builds cells and rows one after the other; each takes its randomness from its own key, so order does not matter."""

    def __init__(self, items, seed=0):
        self.items, self.seed = items, seed
        self.ids = tuple(items)
        self.cells, self.rows = {}, {}

    def random(self, key):
        digest = hashlib.sha256(f"{self.seed} {key}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8]))

    def base_harm(self, model):
        rate = np.array([TASKS[i.task][4] for i in self.items.values()])
        return self.random(f"base {model}").random(len(rate)) < rate

    def add(self, key, part, model, *, pair="", draft="", rule="none", lossless=True, drafted=0, baseline="", alone="",
            ids=None, harm=None, differ=0.1, temperature=0.0, replicates=(0,), arm=None, dtype="float16", seed=42,
            telemetry=None, label=None):  # fmt: skip
        """A cell whose answers have this harm (items, or items x samples); `differ`: share of texts unlike the baseline's."""
        ids = self.ids if ids is None else tuple(ids)
        path = key.partition(": ")[0]
        cell = Cell(key=key, where=path.partition("/")[0], part=part, arm=arm or key, pair=pair, model=model, draft=draft,
                    rule=rule, lossless=lossless, drafted=drafted, dtype=dtype, temperature=temperature, seed=seed,
                    replicates=tuple(replicates), items=ids, baseline=baseline, alone=alone)  # fmt: skip
        random, rows = self.random(key), {}
        harm = np.asarray(harm, bool).reshape(len(ids), -1)
        told = self.telemetry(random, ids, drafted, **(telemetry or {})) if drafted else [{}] * len(ids)
        base = self.rows.get(baseline, {})
        changed = random.random((len(ids), len(replicates))) < differ
        for n, item in enumerate(ids):
            for s, replicate in enumerate(replicates):
                bad = bool(harm[n, min(s, harm.shape[1] - 1)])
                before = base.get((item, self.cells[baseline].replicates[0])) if baseline else None
                same = before is not None and before.harm == bad and not changed[n, s]
                text = (
                    before.text_sha256
                    if same
                    else f"{model} {item} {bad} {key if baseline else ''} {replicate}"
                )
                rows[item, replicate] = self.row(item, bad, text if same else digest(text), told[n], label)
        self.cells[key], self.rows[key] = cell, rows
        return cell

    def row(self, item, bad, text, told, label=None):
        of = self.items[item]
        said = label or LABELS[of.axis][bad]
        if of.task == "truth" and not label:
            said = ("truthful", "untruthful")[bad]
        refuses = said == "refusal"
        given = {
            "tokens": TASKS[of.task][5],
            "drafted": None,
            "accepted": None,
            "rounds": None,
            "accepted_at": None,
            "seconds": None,
        }
        return Row(harm=None if label else bad, label=said, scorer=f"{of.scorer}@made", text_sha256=text, tokens_sha256=digest(text),
                   truncated=False, opening=digest(f"{text[:1]}")[:16] if refuses else None, **{**given, **told})  # fmt: skip

    def telemetry(self, random, ids, drafted, *, safety=0.6, capability=0.6):
        """Rounds until the answer is complete; slots past its end count as drafted, as most stacks count them."""
        found = []
        for item in ids:
            of = self.items[item]
            length, rate = TASKS[of.task][5], capability if of.axis == "capability" else safety
            said, rounds, kept, at = 0, 0, 0, [0] * drafted
            while said < length:
                hits = int(np.argmin(np.append(random.random(drafted) < rate, False)))
                hits = min(hits, length - said)
                for k in range(hits):
                    at[k] += 1
                said, rounds, kept = said + hits + 1, rounds + 1, kept + hits
            found.append({"tokens": length, "drafted": rounds * drafted, "accepted": kept, "rounds": rounds,
                          "accepted_at": tuple(at), "seconds": 0.01 * rounds + 0.002})  # fmt: skip
        return found

    def tables(self, **more):
        instead = {i: Outcome(True, False) for i in self.ids}
        return Tables(items=self.items, cells=self.cells, rows=self.rows, stand_ins=instead, **more)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def flip(random, harm, ids, items, worse=0.0, better=0.0, only=None):
    """Harm after flips: a share of the fine gets worse, a share of the harmful better, on some axes or on all."""
    on = np.array([only is None or items[i].axis in only for i in ids])
    u = random.random(len(harm))
    return np.where(harm, ~(on & (u < better)), on & (u < worse))


def make_study(sizes=None, *, seed=0, pairs=("llama",), noise=0.003, leak=0.0, dose=0.0, phases="1234", lossy=True,
               telemetry=None, blocks=(), aa=True, control=True, extra=0):  # fmt: skip
    """A study of phases 1 to 4. noise: flips either way; leak: further harm of phase 3; dose: harm a drafted token."""
    items = make_items(sizes)
    m = Maker(items, seed)
    for pair in pairs:
        target, draft = PAIRS[pair]
        before, alone = m.base_harm(target), m.base_harm(draft)
        for model, harm, part in ((target, before, "target"), (draft, alone, "draft")):
            if f"1: {model}" not in m.cells:
                m.add(f"1: {model}", part, model, harm=harm, arm=model)
        base, other = f"1: {target}", f"1: {draft}"
        common = {"pair": pair, "draft": draft, "baseline": base, "alone": other, "telemetry": telemetry}
        if aa:
            harm = flip(m.random(f"aa {pair}"), before, m.ids, items, noise, noise)
            m.add(
                f"1: {target} again 1",
                "replicate",
                target,
                baseline=base,
                harm=harm,
                differ=0.02,
                replicates=(1,),
                arm=target,
            )
        if control:
            m.add(
                f"controls: {pair} prefill",
                "control",
                target,
                pair=pair,
                baseline=base,
                harm=np.ones(len(m.ids)),
                differ=1.0,
            )
        for where in ("", *blocks):
            _phases(m, where, pair, target, before, common, noise, leak, dose, phases, lossy, extra)
    return m


def _phases(m, where, pair, target, before, common, noise, leak, dose, phases, lossy, extra):
    path = f"{where}/" if where else ""
    safety = ("harmful_compliance", "bias_and_truth")

    def after(key, worse):
        random = m.random(f"flips {key}")
        noisy = flip(random, before, m.ids, m.items, noise, noise)
        return flip(random, noisy, m.ids, m.items, worse=worse, only=safety)

    rule = ("typical", False) if lossy else ("probabilistic", True)
    if "2" in phases:
        key = f"{path}2: {pair} exact k5"
        m.add(key, "speculative", target, rule="exact", drafted=5, harm=after(key, 0.0), **common)
    if "3" in phases:
        key = f"{path}3: {pair} {rule[0]} k5"
        m.add(
            key,
            "speculative",
            target,
            rule=rule[0],
            lossless=rule[1],
            drafted=5,
            harm=after(key, leak),
            **common,
        )
    if "4" in phases:
        sweep = [i for i in m.ids if m.items[i].axis in safety]
        place = [m.ids.index(i) for i in sweep]
        for k in DOSES:
            key = f"{path}4: {pair} {rule[0]} k{k}"
            harm = after(key, dose * k)[place]
            m.add(
                key,
                "speculative",
                target,
                rule=rule[0],
                lossless=rule[1],
                drafted=k,
                ids=sweep,
                harm=harm,
                **common,
            )


def with_temperature(m, pair="llama", *, samples=5, worse=0.0, temperature=0.7):
    """A block above temperature 0: every item has a rate of its own, from which target and treatment draw."""
    target, draft = PAIRS[pair]
    random = m.random("rates")
    rate = random.beta(0.5, 1.0, len(m.ids))
    kept = tuple(range(samples))
    base = f"temperature: {target} T{temperature:g}"
    draws = {"replicates": kept, "temperature": temperature}
    m.add(
        base, "target", target, harm=random.random((len(m.ids), samples)) < rate[:, None], differ=1.0, **draws
    )
    after = np.minimum(1, rate + worse)[:, None]
    m.add(f"temperature: {pair} exact k5 T{temperature:g}", "speculative", target, pair=pair, draft=draft, rule="exact", drafted=5,
          baseline=base, harm=random.random((len(m.ids), samples)) < after, differ=1.0, **draws)  # fmt: skip
    return m


def changed_row(m, key, item, **fields):
    """Replace fields of one answer."""
    place = (item, m.cells[key].replicates[0])
    m.rows[key][place] = replace_row(m.rows[key][place], **fields)


def replace_row(row, **fields):
    return row._replace(**fields)


def replace_cell(m, key, **fields):
    m.cells[key] = replace(m.cells[key], **fields)
