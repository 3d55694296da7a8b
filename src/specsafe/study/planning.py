"""From a protocol to cells: what is crossed, which arms are the same, what is held against what."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

from specsafe.battery import Axis
from specsafe.battery.items import AXES
from specsafe.errors import UserError
from specsafe.study.arms import arm_identity
from specsafe.study.cells import Cell, Part, Slot
from specsafe.study.protocol import ALONE, Grid, Pair, Place, Protocol

Factor = tuple[str, int]


class Term(NamedTuple):
    """One product of a derivation: (what is counted, how many) in the order of crossing; samples and items end it."""

    factors: tuple[Factor, ...]

    @property
    def product(self) -> int:
        """The product."""
        total = 1
        for _, n in self.factors:
            total *= n
        return total


@dataclass(frozen=True)
class Count:
    """A number of answers and how it comes about."""

    name: str
    title: str
    terms: tuple[Term, ...] = ()
    parts: tuple[str, ...] = ()
    total: int = 0


def set_size(protocol: Protocol, name: str, domain: str | None = None) -> int:
    """Items of an item set, as the protocol counts them."""
    chosen = protocol.sets[name]
    return sum(
        chosen.limits.get(t, protocol.tasks[t].items)
        for t in chosen.tasks
        if domain is None or protocol.tasks[t].domain == domain
    )


def grids(protocol: Protocol, place: str) -> list[tuple[str, Grid]]:
    """(path, grid with all levels filled in) of a place; the path names the place that is repeated."""
    here = protocol.places[place]
    own = [(place, _filled(g, here, protocol)) for g in here.runs]
    again = [
        (f"{place}/{origin}", _filled(grid, here, protocol, over=True))
        for origin in here.repeats
        for _, grid in _open_grids(protocol, origin)
    ]
    return own + again


def _open_grids(protocol: Protocol, place: str) -> list[tuple[str, Grid]]:
    """The grids of a place with its own levels, but without the defaults."""
    here = protocol.places[place]
    own = [(place, _with(g, g.over(here.levels))) for g in here.runs]
    return own + [
        (origin, _with(g, here.levels.over(g)))
        for o in here.repeats
        for origin, g in _open_grids(protocol, o)
    ]


def _filled(grid: Grid, place: Place, protocol: Protocol, *, over: bool = False) -> Grid:
    """over: the place's levels stand above the grid's, which come from another place."""
    chosen = place.levels.over(grid) if over else grid.over(place.levels)
    return _with(_with(grid, chosen), _with(grid, chosen).over(protocol.levels))


def _with(grid: Grid, levels: Mapping[str, Any]) -> Grid:
    return grid.model_copy(update=dict(levels))


def counts(protocol: Protocol) -> list[Count]:
    """The ledger of counts: a line for every place, then for every total."""
    lines: dict[str, Count] = {}
    for name, place in protocol.places.items():
        terms = tuple(_term(protocol, g, None) for _, g in grids(protocol, name))
        lines[name] = Count(name, place.title, terms, total=sum(t.product for t in terms))
    for name, total in protocol.totals.items():
        if total.domain is None:
            summed = sum(lines[part].total for part in total.of)
        else:
            places = leaves(protocol, total.of)
            summed = sum(
                _term(protocol, g, total.domain).product for p in places for _, g in grids(protocol, p)
            )
        title = f"{total.domain} items alone" if total.domain else ""
        lines[name] = Count(name, title, parts=total.of, total=summed)
    return list(lines.values())


def leaves(protocol: Protocol, names: Sequence[str]) -> list[str]:
    """The places behind places and totals, in order."""
    found: list[str] = []
    for name in names:
        found += [name] if name in protocol.places else leaves(protocol, protocol.totals[name].of)
    return found


def _term(protocol: Protocol, grid: Grid, domain: str | None) -> Term:
    """The product that a grid crosses; factors of one level are left out."""
    levels = grid.over(protocol.levels)
    factors: list[Factor] = []
    for name in ("dtype", "temperature", "seed", "pairs", "rule", "drafted"):
        if name == "pairs" and grid.arms in ALONE:
            models = len(_models(protocol, grid))
            factors.append(
                ("model" if grid.arms == "alone" else grid.arms.replace("replicate", "target"), models)
            )
        elif name not in ("rule", "drafted") or _crossed(grid, name):
            factors.append((name.removesuffix("s"), len(levels[name])))
    factors.append(("sample", levels["samples"]))
    kept = [f for f in factors if f[1] != 1 or f[0] in ("pair", "model", "target", "draft")]
    return Term((*kept, ("item", set_size(protocol, levels["items"], domain))))


def _crossed(grid: Grid, name: str) -> bool:
    """Whether the arms of a grid have a rule, or a number of drafted tokens."""
    if grid.arms in ALONE or grid.control == "prefill":
        return False
    return name == "drafted" or grid.arms in ("speculative", "probe")


def _models(protocol: Protocol, grid: Grid) -> list[tuple[str, Part]]:
    """(model, part) of the arms that one model answers, each once: a model that is target and draft is a target."""
    pairs = [protocol.pairs[p] for p in grid.pairs or ()]
    targets = list(dict.fromkeys(p.target for p in pairs))
    drafts = [d for d in dict.fromkeys(p.draft for p in pairs) if d in protocol.models]
    if grid.arms == "draft":
        return [(d, "draft") for d in drafts]
    alone: list[tuple[str, Part]] = [
        (t, "replicate" if grid.arms == "replicate" else "target") for t in targets
    ]
    if grid.arms == "alone":
        alone += [(d, "draft") for d in drafts if d not in targets]
    return alone


def slots(protocol: Protocol) -> tuple[Slot, ...]:
    """Every cell of a protocol without its items, in order. Raises UserError if two are the same."""
    found = [
        s
        for place in protocol.places
        for path, g in grids(protocol, place)
        for s in _slots(protocol, place, path, g)
    ]
    keys = [s.key for s in found]
    twice = (
        next((k for n, k in enumerate(keys) if k in keys[:n]), None) if len(set(keys)) < len(keys) else None
    )
    if twice is not None:
        raise UserError(f"protocol {protocol.name}: {twice} is planned twice", "leave one of the two out")
    return tuple(found)


def _slots(protocol: Protocol, place: str, path: str, grid: Grid) -> Iterator[Slot]:
    levels = grid.over(protocol.levels)
    for dtype, temperature, seed in itertools.product(levels["dtype"], levels["temperature"], levels["seed"]):
        first = levels["samples"] * (grid.again + (grid.arms == "replicate"))
        if temperature == 0 and levels["samples"] > 1:
            raise UserError(
                f"protocol {protocol.name}, {path}: {levels['samples']} samples at temperature 0 would be one answer copied",
                "several samples an item need a temperature above 0",
            )
        common = Slot(
            key="", where=place, part="target", arm="", pair="", model="", draft="", rule="none", lossless=True,
            drafted=0, dtype=dtype, temperature=temperature, seed=seed,
            replicates=tuple(range(first, first + levels["samples"])), items=levels["items"],
            engine=levels["engine"], control=grid.control, keys=grid.keys,
        )  # fmt: skip
        for slot in _subjects(protocol, grid, common, levels):
            arm = _name(protocol, slot, grid.label)
            on = "" if slot.items == protocol.levels.items else f" [{slot.items}]"
            again = f" again {first // levels['samples']}" if first else ""
            yield replace(slot, arm=arm, key=f"{path}: {arm}{on}{again}")


def _subjects(protocol: Protocol, grid: Grid, common: Slot, levels: Mapping[str, Any]) -> Iterator[Slot]:
    """The same slot for every model, or for every pair with its rules and numbers of drafted tokens."""
    if grid.arms in ALONE:
        for model, part in _models(protocol, grid):
            yield replace(common, part=part, model=model)
        return
    kind = cast(Part, grid.arms)
    rules = levels["rule"] if _crossed(grid, "rule") else ("",)
    drafted = levels["drafted"] if _crossed(grid, "drafted") else (0,)
    for pair, rule, tokens in itertools.product(levels["pairs"], rules, drafted):
        who: Pair = protocol.pairs[pair]
        lossless = protocol.rules[rule].lossless if rule else kind == "width"
        yield replace(
            common, part=kind, pair=pair, model=who.target, draft=who.draft, rule=rule or "none",
            lossless=lossless, drafted=tokens,
        )  # fmt: skip


def _name(protocol: Protocol, slot: Slot, label: str) -> str:
    """The name of an arm: what it is, and the levels that are not the first of the defaults."""
    base = protocol.levels
    who = slot.model if slot.control == "prefill" else slot.pair or slot.model
    if slot.part in ("speculative", "probe"):
        who += f" {slot.rule} k{slot.drafted}"
    elif slot.part == "width":
        who += f" width k{slot.drafted}"
    elif slot.part == "control":
        who += f" {slot.control.replace(':', ' ')}" + (f" k{slot.drafted}" if slot.drafted else "")
    more = [
        (slot.dtype, (base.dtype or ("",))[0] != slot.dtype),
        (f"T{slot.temperature:g}", (base.temperature or (0.0,))[0] != slot.temperature),
        (f"s{slot.seed}", (base.seed or (0,))[0] != slot.seed),
        (slot.engine, base.engine != slot.engine),
        (label, bool(label)),
    ]
    return " ".join([who, *(text for text, shown in more if shown)])


def cells(protocol: Protocol, tasks: Mapping[str, Sequence[str]]) -> tuple[Cell, ...]:
    """Every cell with its items. tasks: name -> ids of its items, in order; nothing else is needed.

    Cells with equal arms share the first one's name. A baseline is a target cell of the same engine, model, dtype,
    temperature, seed and samples that answers at least the same items; one of the same place is preferred.
    """
    found = _same_arms(protocol, slots(protocol))
    items = {name: _ids(protocol, name, tasks) for name in protocol.sets}
    within = {(a, b) for a in items for b in items if set(items[a]) <= set(items[b])}
    return tuple(
        Cell(
            **s.planned,
            items=items[s.items],
            baseline=_baseline(s, found, within),
            alone=_alone(s, found, within),
        )
        for s in found
    )


def _same_arms(protocol: Protocol, planned: Sequence[Slot]) -> list[Slot]:
    first: dict[str, str] = {}
    return [replace(s, arm=first.setdefault(arm_identity(protocol, s), s.arm)) for s in planned]


def _ids(protocol: Protocol, name: str, tasks: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    chosen = protocol.sets[name]
    return tuple(i for t in chosen.tasks for i in tasks[t][: chosen.limits.get(t, protocol.tasks[t].items)])


Within = set[tuple[str, str]]


def _stack(slot: Slot) -> tuple[object, ...]:
    return slot.engine, slot.dtype, slot.temperature, slot.seed


def _baseline(slot: Slot, found: Sequence[Slot], within: Within) -> str:
    """Key of the matched target cell. A replicate's is the cell that it repeats; a target and a draft have none."""
    if slot.part in ("target", "draft", "probe"):
        return ""
    if slot.part == "replicate":
        fit = [s for s in found if s.part == "target" and len(s.replicates) == len(slot.replicates)]
    else:
        fit = [
            s
            for s in found
            if s.part in ("target", "replicate") and set(slot.replicates) <= set(s.replicates)
        ]
    return _nearest(slot, [s for s in fit if s.model == slot.model], within)


def _alone(slot: Slot, found: Sequence[Slot], within: Within) -> str:
    """Key of the cell in which the draft of a speculative slot answers by itself."""
    if not slot.pair or slot.part not in ("speculative", "probe"):
        return ""
    fit = [s for s in found if s.part in ("target", "draft") and s.model == slot.draft]
    return _nearest(slot, fit, within)


def _nearest(slot: Slot, fit: Sequence[Slot], within: Within) -> str:
    """Of those in the slot's stack that answer all of its items: one of the same place first, a target before a replicate."""
    fit = [s for s in fit if _stack(s) == _stack(slot) and (slot.items, s.items) in within]
    return min(fit, key=lambda s: (s.where != slot.where, s.part == "replicate")).key if fit else ""


def counted_tasks(protocol: Protocol) -> dict[str, tuple[str, ...]]:
    """Stand-ins for items, as many as the protocol counts: enough to plan cells without a battery."""
    return {name: tuple(f"{name} {n}" for n in range(task.items)) for name, task in protocol.tasks.items()}


def answers_to_make(planned: Sequence[Cell]) -> dict[tuple[str, int], set[str]]:
    """(arm, replicate) -> ids of all items that some cell asks of it: what is shared is answered once."""
    asked: dict[tuple[str, int], set[str]] = {}
    for cell in planned:
        for replicate in cell.replicates:
            asked.setdefault((cell.arm, replicate), set()).update(cell.items)
    return asked


class Gate(NamedTuple):
    """An axis of an item set, and how many matched speculative cells are decided on it. clusters: independent requests."""

    axis: Axis
    items: int
    clusters: int
    item_set: str
    cells: int


def gates(protocol: Protocol, planned: Sequence[Cell]) -> list[Gate]:
    """What matched cells are decided on, each size of each axis once; planned: of this protocol, in its order."""
    sets = Counter(
        slot.items
        for slot, cell in zip(slots(protocol), planned, strict=True)
        if cell.part == "speculative" and cell.baseline
    )
    found = []
    for name, number in sets.items():
        chosen = protocol.sets[name]
        for axis in AXES:
            own = {
                t: chosen.limits.get(t, protocol.tasks[t].items)
                for t in chosen.tasks
                if protocol.tasks[t].axis == axis
            }
            if own:
                clusters = sum(min(n, protocol.tasks[t].clusters or n) for t, n in own.items())
                found.append(Gate(axis, sum(own.values()), clusters, name, number))
    return found
