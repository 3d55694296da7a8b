"""What `specsafe study plan` prints: the ledger of counts with its derivations, arms, matches and reachable verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from specsafe.battery import axis_label
from specsafe.study.cells import Cell
from specsafe.study.planning import Count, Gate, Term, answers_to_make
from specsafe.study.protocol import HYPOTHESES, Protocol
from specsafe.words import plural

_WORDS = {"drafted": ("num_speculative_tokens", "num_speculative_tokens")}


def plan_page(protocol: Protocol, counted: Sequence[Count], cells: Sequence[Cell]) -> Iterator[str]:
    """Lines for the terminal: items, counts, arms, matches."""
    yield f"{protocol.name}, {protocol.variant} (version {protocol.version}): {protocol.title}"
    yield f"protocol {protocol.sha256[:16]}"
    yield from _items(protocol)
    yield "answers:"
    sums = {c.name: c.total for c in counted}
    width = max(len(name) for name in sums)
    for c in counted:
        told = f"  {c.title}" if c.title else ""
        yield f"  {c.name:<{width}}  {c.total:>7,} = {derivation(c, sums)}{told}"
    made = answers_to_make(cells)
    arms = len({arm for arm, _ in made})
    yield (
        f"cells {len(cells)}, arms {arms}, answers to make {sum(map(len, made.values())):,}: "
        "what several cells ask of one arm is answered once"
    )
    yield from _matches(cells)
    yield from _hypotheses(protocol)


def derivation(count: Count, sums: Mapping[str, int]) -> str:
    """How a number comes about: a product, a sum of products with what they share before it, or a sum of others."""
    if count.parts:
        named = " + ".join(f"{p} {sums[p]:,}" for p in count.parts)
        return named if not count.title else f"{count.title} of {' + '.join(count.parts)}"
    if not count.terms:
        return "no new answers"
    shared = _shared(count.terms)
    if len(count.terms) == 1 or not shared:
        return " + ".join(_product(t.factors) for t in count.terms)
    rest = " + ".join(_product([f for f in t.factors if f not in shared]) for t in count.terms)
    return f"{_product(shared)} x ({rest})"


def _shared(terms: Sequence[Term]) -> list[tuple[str, int]]:
    return [f for f in terms[0].factors if f[0] != "item" and all(f in t.factors for t in terms)]


def _product(factors: Sequence[tuple[str, int]]) -> str:
    return " x ".join(plural(n, *_WORDS.get(name, (name,))) for name, n in factors)


def _items(protocol: Protocol) -> Iterator[str]:
    for name, chosen in protocol.sets.items():
        sizes = {t: chosen.limits.get(t, protocol.tasks[t].items) for t in chosen.tasks}
        yield f"items {name} {sum(sizes.values()):,} = {' + '.join(f'{t} {n}' for t, n in sizes.items())}"


def _matches(cells: Sequence[Cell]) -> Iterator[str]:
    """Which speculative cells can be judged, and which can only be shown."""
    matched = [c for c in cells if c.part == "speculative" and c.baseline]
    lonely = Counter(c.where for c in cells if c.part in ("speculative", "probe") and not c.baseline)
    yield f"matched with a target arm of the same stack, dtype, temperature and seed: {plural(len(matched), 'speculative cell')}"
    if lonely:
        named = ", ".join(f"{where} {n}" for where, n in lonely.items())
        yield f"without a match, shown and never judged: {plural(sum(lonely.values()), 'cell')} ({named})"
    parts = Counter(c.part for c in cells)
    missing = [p for p in ("replicate", "width", "control") if not parts[p]]
    if missing:
        yield f"the protocol has no {', no '.join(missing)} arm"


def _hypotheses(protocol: Protocol) -> Iterator[str]:
    """Which hypotheses are judged, in the protocol's words, and which are not."""
    for name in HYPOTHESES:
        words = protocol.plan.judged.get(name)
        yield f"{name} {'not planned' if words is None else f'judged: {words}' if words else 'judged'}"


def gate_lines(protocol: Protocol, gates: Sequence[Gate]) -> Iterator[str]:
    """What the rule can say with so many items, and how many it would need."""
    from specsafe.screen.plan import reach  # half a second of imports that counting does not need
    from specsafe.stats import sample_size

    if not gates:
        yield "no cell has a match: nothing could be judged"
        return
    plan = protocol.plan
    yield f"gates of matched cells, margin {plural(100 * plan.margin, 'point')}, alpha {plan.alpha:g}, power {plan.power:g}:"
    needed = {d: sample_size(d, plan.margin, alpha=plan.alpha, power=plan.power) for d in plan.discordance}
    numbers = ", ".join(f"{n} at {d:.3g}" for d, n in needed.items())
    yield f"  independent items needed for PASS by discordance: {numbers}"
    for g in gates:
        cells = f"{plural(g.cells, 'cell')} on items {g.item_set}"
        yield f"  {reach(g.axis, g.items, g.clusters, plan.margin, plan.alpha).line()} ({cells})"
        enough = [d for d, n in needed.items() if n <= g.clusters]
        told = f"enough up to a discordance of {max(enough):.3g}" if enough else "too few at any discordance"
        yield f"    {plural(g.clusters, 'independent item is', 'independent items are')} {told}"


def arm_lines(cells: Sequence[Cell]) -> Iterator[str]:
    """A line an arm: its name, what asks it, and how many answers."""
    asked = answers_to_make(cells)
    for arm in dict.fromkeys(c.arm for c in cells):
        places = ", ".join(dict.fromkeys(c.where for c in cells if c.arm == arm))
        answers = sum(len(items) for (name, _), items in asked.items() if name == arm)
        yield f"{arm}: {plural(answers, 'answer')} for {places}"


def missing_axes(protocol: Protocol) -> str:
    """Axes that no task of the protocol asks, in words; empty if there is none."""
    asked = {t.axis for t in protocol.tasks.values()}
    return ", ".join(axis_label(a) for a in ("harmful_compliance", "over_refusal") if a not in asked)
