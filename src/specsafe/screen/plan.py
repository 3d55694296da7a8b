"""What a screen will run, and which verdicts it can reach: counted before any model loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specsafe.battery import Axis, Battery, Item, axis_label
from specsafe.engines import AnswersArm, Arm, LocalArm, OpenAIArm, arm_id, check_arm
from specsafe.screen.config import LEAK_ITEMS_PER_AXIS, ScreenConfig
from specsafe.screen.decide import items_needed, most_passing, smallest_caught
from specsafe.study.run import Job, require_unique_roles
from specsafe.words import plural

RERUN_LIMIT = 50
RERUN = {"speculative": "rerun", "leak": "rerun-leak"}  # role -> that of its reruns
DISCORDANCES = (0.0, 0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Reach:
    """What the rule can say of one axis with the items at hand."""

    axis: Axis
    items: int
    clusters: int
    most_passing: int | None
    smallest_caught: int | None
    items_needed: dict[str, int | None]

    @property
    def can_pass(self) -> bool:
        """Whether zero harmed items would be a PASS."""
        return self.most_passing is not None

    def line(self) -> str:
        """What the rule can say, in one line."""
        passing = (
            f"PASS with at most {plural(self.most_passing, 'net flip')}"
            if self.can_pass
            else "PASS cannot be reached"
        )
        tied = f" in {plural(self.clusters, 'cluster')}" if self.clusters < self.items else ""
        failing = (
            "FAIL cannot be reached"
            if self.smallest_caught is None
            else f"FAIL from {self.smallest_caught}, UNMEASURED with fewer at risk"
        )
        return f"{axis_label(self.axis)}: {plural(self.items, 'item')}{tied}; {passing}, {failing}"


def reachable(battery: Battery, margin: float, alpha: float, *, needed: bool = False) -> list[Reach]:
    """Per axis: the most net flips that still pass, the fewest that fail, and, if wanted, items needed by discordance.

    Where items share clusters a PASS counts clusters as units; how much a FAIL needs depends on where flips fall.
    """
    found: list[Reach] = []
    for axis in battery.axes:
        items = battery.on(axis)
        r = reach(axis, len(items), len({i.cluster for i in items}), margin, alpha)
        wanted = {f"{d:.0%}": items_needed(d, 0.0, margin, alpha) for d in DISCORDANCES} if needed else {}
        found.append(replace(r, items_needed=wanted))
    return found


def reach(axis: Axis, items: int, clusters: int, margin: float, alpha: float) -> Reach:
    """The same for so many items in so many clusters, whatever they are; items_needed is left empty."""
    units = most_passing(clusters, margin, alpha)
    return Reach(
        axis=axis,
        items=items,
        clusters=clusters,
        most_passing=None if units is None else units * items // clusters,
        smallest_caught=smallest_caught(items, margin, alpha),
        items_needed={},
    )


def planned_items(config: ScreenConfig, battery: Battery) -> dict[str, tuple[Arm, tuple[Item, ...]]]:
    """Role -> (arm, items), before threads and slots are known."""
    part = battery.items if isinstance(config.target, AnswersArm) else battery.share(config.share).items
    harmful = [i for i in part if i.axis == "harmful_compliance"]
    roles: dict[str, tuple[Arm | None, Sequence[Item]]] = {
        "target": (config.target, battery.items),
        "speculative": (config.speculative, battery.items),
        "replicate": (config.replicate, part),
        "width": (config.width, part),
        "prefill": (config.prefill, harmful),
        "leak": (config.leak, battery.limit(LEAK_ITEMS_PER_AXIS).items),
        **{role: (arm, harmful) for role, arm in config.doses},
    }
    return {role: (arm, tuple(items)) for role, (arm, items) in roles.items() if arm is not None and items}


def make_jobs(config: ScreenConfig, battery: Battery, resolved: Mapping[str, Any]) -> list[Job]:
    """The jobs of a screen with threads and slots filled in. Raises UserError for files that cannot be used."""
    jobs: list[Job] = []
    for role, (arm, items) in planned_items(config, battery).items():
        if role in resolved.get("absent", {}):
            continue
        fixed = resolve_arm(arm, resolved)
        identity = arm_id(fixed, check_arm(fixed))
        replicate = sum(j.arm_id == identity for j in jobs)
        jobs.append(Job(role, fixed, identity, replicate, items))
    require_unique_roles(jobs)
    return jobs


def rerun_job(jobs: Sequence[Job], items: Sequence[Item], role: str = "speculative") -> Job:
    """An arm again, on the items whose forks have a large gap: does the fork come again?"""
    first = next(j for j in jobs if j.role == role)
    used = [j.replicate for j in jobs if j.arm_id == first.arm_id]
    return Job(RERUN[role], first.arm, first.arm_id, max(used) + 1, tuple(items[:RERUN_LIMIT]))


def resolve_arm(arm: Arm, resolved: Mapping[str, Any]) -> Arm:
    """The arm with every `auto` replaced by what was settled at the start."""
    if isinstance(arm, OpenAIArm):
        settled = {"concurrency": resolved["concurrency"], "dialect": resolved["dialects"][arm.address]}
        return arm.model_copy(update={k: v for k, v in settled.items() if getattr(arm, k) == "auto"})
    if not isinstance(arm, LocalArm):
        return arm
    return arm.model_copy(update={k: resolved[k] for k in ("threads", "slots") if getattr(arm, k) == "auto"})
