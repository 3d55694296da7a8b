"""What specsafe's plugin inside vLLM tells at /specsafe, and what is asked of it in each request.

The page is answered by the worker that samples. A plugin that vLLM skipped has no page, and a rule is believed once a
request's draft tokens were seen to be decided by it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, NamedTuple

from specsafe import __version__
from specsafe.decoding.named import RULE_FACTS, STANDARD, Named, named
from specsafe.engines.arm_openai import OpenAIArm
from specsafe.engines.base import Json
from specsafe.engines.openai_client import Client, GaveUp, patiently
from specsafe.engines.openai_dialects import ImpossibleCounts, count, part
from specsafe.errors import UserError

PATH = "/specsafe"
METHOD = "method"  # the rule of a server whose tokens a safety-aware method decides
_HOW = "serve with vLLM, --worker-cls specsafe.plugin.worker.Worker and VLLM_PLUGINS=specsafe (docs/vllm.md)"


class Plugin(NamedTuple):
    """setting: what decides where a request names nothing. decided: setting -> draft tokens decided by it so far.

    drafter: vLLM's name for how it drafts, "" where the plugin does not say.
    """

    version: str
    setting: str
    lossless: bool
    decided: Mapping[str, int]
    drafter: str

    @property
    def rule(self) -> str:
        """The setting's name among the rules that an arm may claim."""
        return METHOD if self.setting.startswith(f"{METHOD} ") else self.setting.partition(":")[0]

    def proof(self, before: Plugin | None, asked: Asked | None) -> str:
        """Why what is asked for, or the server's own, is in force; "" where its count stood still since `before`."""
        setting = asked.setting if asked else self.setting
        if before is None or before.setting != self.setting:
            return ""
        decided = self.decided.get(setting, 0) - before.decided.get(setting, 0)
        if decided <= 0:
            return ""
        return (
            f"specsafe {self.version} in the server's worker, whose sampler decided a first request's draft tokens "
            f"by it: {decided} counted at {PATH}{'; each request asks for it' if asked else ''}"
        )


class Asked(NamedTuple):
    """What an arm asks for in each request. fields: of the request's vllm_xargs. setting: as the plugin spells it."""

    fields: Mapping[str, str]
    setting: str
    lossless: bool


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
    decided, drafter = part(worker, "decided"), part(worker, "drafter")
    if not (isinstance(setting, str) and isinstance(version, str) and isinstance(lossless, bool)):
        raise UserError(
            f"{PATH} of {arm.url} cannot be read", "the server's specsafe may be another version; report it"
        )
    rows = decided if isinstance(decided, Mapping) else {}
    try:
        counts = {_clean(name): count(part(row, "drafted"), "drafted") or 0 for name, row in rows.items()}
    except ImpossibleCounts as error:
        raise UserError(f"{PATH} of {arm.url} tells what cannot be: {error}", "report it") from error
    return Plugin(
        version[:40], _clean(setting), lossless, counts, drafter[:40] if isinstance(drafter, str) else ""
    )


def _clean(setting: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in setting)[:200]


def to_ask(arm: OpenAIArm, dialect: str, plugin: Plugin | None) -> Asked | None:
    """What is asked for in each request; None where rule= is a claim, or what the server does anyway.

    Raises UserError where it can only be asked for and the server has no plugin, and where a name alone could mean two
    things.
    """
    what = f"method={arm.method}" if arm.method else f"rule={arm.rule}"
    if plugin is None:
        if arm.must_ask:
            lacks = (
                f"nothing at {PATH} shows specsafe's plugin there"
                if dialect == "vllm"
                else f"it is no vLLM ({dialect})"
            )
            place = arm.url or "the server that serve= starts"
            raise UserError(f"{what} is to be asked of {place} in each request, and {lacks}", _HOW)
        return None
    if arm.method:
        return _asked("specsafe_method", arm.method, named("method", arm.method))
    if not arm.must_ask and arm.rule not in (STANDARD, *RULE_FACTS):
        return None
    if arm.rule == plugin.rule and plugin.setting != arm.rule and plugin.setting != _by_default(arm.rule):
        raise UserError(
            f"{what}: the server's own rule of that name has numbers of its own ({plugin.setting})",
            "leave rule= out for the server's own, or name the numbers, as rule=typical,epsilon=0.09",
        )
    return _asked("specsafe_rule", arm.rule, named("rule", arm.rule))


def _asked(field: str, text: str, meant: Named) -> Asked:
    return Asked({field: text}, meant.text, meant.lossless)


def _by_default(rule: str) -> str:
    """The setting of a rule without numbers; "" where it needs some."""
    return named("rule", rule).text if None not in RULE_FACTS[rule].numbers.values() else ""


def unproved(arm: OpenAIArm, asked: Asked, plugin: Plugin | None) -> UserError:
    """What to say where a rule was asked for and was not seen to decide anything."""
    versions = (
        f" (it is specsafe {plugin.version}, this is {__version__})"
        if plugin and plugin.version != __version__
        else ""
    )
    return UserError(
        f"{asked.setting} was asked of {arm.url} and decided no draft token of two first requests, "
        f"by its {PATH}{versions}",
        "see whether it drafts, with specsafe doctor and without rule= or method=",
    )


def rule_facts(arm: OpenAIArm, told: str, plugin: Plugin | None, asked: Asked | None, proof: str) -> Json:
    """Of the fingerprint: the acceptance rule, and what shows it to be in force. told: the server's own name for it."""
    if not arm.speculative or not (told or plugin):
        return {"rule": arm.rule_in_force, "rule_proved": False, "lossless": arm.lossless}
    if plugin is None:
        return {"rule": told, "rule_proved": True, "lossless": arm.lossless}
    return {
        "rule": asked.setting if asked else plugin.setting,
        "rule_proved": bool(proof),
        **({"rule_proof": proof} if proof else {}),
        "lossless": asked.lossless if asked else arm.lossless and plugin.lossless,
        "plugin": f"specsafe {plugin.version}",
        **({"rule_asked": _spelled(asked.fields), "rule_of_the_server": plugin.setting} if asked else {}),
    }


def _spelled(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{k}={v}" for k, v in fields.items())


def no_leak(dialect: str, plugin: Plugin | None, proof: str) -> str:
    """Why a server cannot be made to leak; "" where it can."""
    if dialect != "vllm":
        return f"only vLLM with specsafe's plugin can be made to leak; the speculative server is no vLLM ({dialect})"
    if plugin is None:
        return f"the speculative server has not specsafe's plugin (nothing at {PATH}), which alone can be made to leak"
    if not proof:
        return "specsafe's plugin decided no draft token of a first request to the speculative server"
    return NGRAM if plugin.drafter == "ngram" else ""


NGRAM = "a prompt lookup drafts too little for a leak to show"
