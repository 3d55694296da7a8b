"""What specsafe's plugin inside vLLM tells at /specsafe: which rule its sampler has, and what it has decided by it.

The page is answered by the worker that samples. A plugin that vLLM skipped has no page, and one that names a rule is
believed once a request's draft tokens were seen to be decided by that rule.
"""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.openai_client import Client, GaveUp, patiently
from specsafe.engines.openai_dialects import ImpossibleCounts, count, part
from specsafe.errors import UserError

PATH = "/specsafe"
METHOD = "method"  # the rule of a server whose tokens a safety-aware method decides


class Plugin(NamedTuple):
    """setting: what decides where a request names nothing. drafted: draft tokens decided by it so far."""

    version: str
    setting: str
    lossless: bool
    drafted: int

    @property
    def rule(self) -> str:
        """The setting's name among the rules that an arm may claim."""
        return METHOD if self.setting.startswith(f"{METHOD} ") else self.setting.partition(":")[0]

    def proof(self, before: Plugin | None) -> str:
        """Why the setting is known to be in force, where its count went on since `before`; "" where it is not."""
        if before is None or before.setting != self.setting or self.drafted <= before.drafted:
            return ""
        return f"specsafe {self.version} in the server's worker, whose sampler decided a first request's draft tokens by it"


async def look_for_plugin(client: Client, arm: OpenAIArm) -> Plugin | None:
    """Ask for the page. None where there is none; raises UserError where it cannot be read, or workers disagree."""
    try:
        got = (await patiently(arm, lambda: client.look(PATH), random.Random())).value
    except GaveUp:
        return None
    if got.status != 200:
        return None
    try:
        workers = part(json.loads(got.body), "workers")
    except (ValueError, RecursionError):
        return None  # a page of somebody else's
    if not isinstance(workers, list) or not workers:
        return None
    told = [_plugin(arm, worker) for worker in workers]
    if len({p.setting for p in told}) > 1:
        raise UserError(
            f"the workers of {arm.url} decide by different rules: {', '.join(sorted({p.setting for p in told}))}",
            "start the server again",
        )
    return told[0]  # workers of one model decide the same tokens


def _plugin(arm: OpenAIArm, worker: Any) -> Plugin:
    setting, version, lossless = (part(worker, name) for name in ("setting", "specsafe", "lossless"))
    if not (isinstance(setting, str) and isinstance(version, str) and isinstance(lossless, bool)):
        raise UserError(
            f"{PATH} of {arm.url} cannot be read", "the server's specsafe may be another version; report it"
        )
    try:
        drafted = count(part(worker, "decided", setting, "drafted"), "drafted") or 0
    except ImpossibleCounts as error:
        raise UserError(f"{PATH} of {arm.url} tells what cannot be: {error}", "report it") from error
    clean = "".join(c if c.isprintable() else "?" for c in setting)[:200]
    return Plugin(version[:40], clean, lossless, drafted)
