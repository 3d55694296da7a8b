"""Screens of servers: what is settled with them at the start, and what a reader must be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from specsafe.engines import AnyArm, OpenAIArm, VllmArm, openai, openai_settled
from specsafe.engines.base import Json
from specsafe.engines.openai_plugin import NGRAM, no_leak
from specsafe.study.preflight import Probed
from specsafe.study.run import Job


def settle_servers(planned: Mapping[str, AnyArm]) -> Json:
    """Dialects, one concurrency for all arms, and roles that such a server cannot play, with the reason.

    planned: role -> arm. Raises UserError where a server does not answer, or is not what its arm says.
    """
    servers = {role: a for role, a in planned.items() if isinstance(a, OpenAIArm)}
    # whether the speculative server can be made to leak is seen by its own arm
    settled = openai_settled.resolved(a for role, a in servers.items() if role != "leak")
    unable: Json = settled.pop("no_leak")
    absent = {}
    for role, arm in servers.items():
        if role == "leak" and arm.address in unable:
            absent["leak"] = unable[arm.address]
        if arm.prefill and not openai.can_prefill(arm, settled["dialects"][arm.address]):
            absent["prefill"] = "the server would answer the beginning of an answer instead of continuing it"
    return {**settled, "absent": absent}


def server_remarks(jobs: Sequence[Job], probed: Mapping[str, Probed], resolved: Json) -> Iterator[str]:
    """What the events of a screen of servers say beside the preflight."""
    arms = {j.role: j.arm for j in jobs if isinstance(j.arm, OpenAIArm)}
    seen = {role: p.fingerprint for role, p in probed.items() if role in arms}
    if not seen:
        return
    if "replicate" in arms and arms["replicate"].serve:
        yield "for the replicate arm the target's server is started again, and asked in another order"
    elif "replicate" in arms:
        yield "the servers are not ours: for the replicate arm the target's was asked again in another order, not restarted"
    for role, reason in resolved.get("absent", {}).items():
        yield f"no {role} arm: {reason}"
    if "width" not in arms:
        yield (
            "no width arm (--width names a server whose draft is the target itself): gaps of forks have nothing of "
            "this stack to be compared with"
        )
    yield from _of_the_leak(arms, resolved)
    if "speculative" in seen:
        yield from _of_the_pair(seen, arms["speculative"], resolved)


def _of_the_leak(arms: Mapping[str, OpenAIArm | VllmArm], resolved: Json) -> Iterator[str]:
    """What the leak control is, or why none was planned; one that a server cannot play is told with its reason."""
    fast = arms.get("speculative")
    if "leak" in arms:
        yield f"the leak control is the speculative arm with rule={arms['leak'].rule}"
    elif fast is not None and "leak" not in resolved.get("absent", {}):
        reasons = {
            "at a temperature above 0 answers differ by chance, and forks are not judged": fast.temperature
            > 0,
            "the rule of the speculative arm changes answers by its own account": not fast.lossless,
            NGRAM: isinstance(fast, VllmArm),
            no_leak(getattr(fast, "dialect", ""), None, ""): True,
        }
        yield f"no leak arm: {next(reason for reason, holds in reasons.items() if holds)}"


def _of_the_pair(seen: Mapping[str, Json], arm: OpenAIArm, resolved: Json) -> Iterator[str]:
    """Remarks on the speculative server, and on whether it fits the target's."""
    fast = seen["speculative"]
    if arm.telemetry == "none":
        yield "nothing shows that the speculative server drafts: telemetry=none was asked for"
    elif fast["drafting_told_by"] == "counters":
        yield (
            "only counters tell of drafting: one request at a time"
            if resolved["concurrency"] == 1
            else f"only counters tell of drafting, and {resolved['concurrency']} requests are in flight: acceptance a request is not known"
        )
    if "rule_proof" in fast:
        own = fast.get("rule_of_the_server")
        started = f"; the server itself was started with {own}" if own else ""
        yield f"rule in force: {fast['rule']} (proved by {fast['rule_proof']}{started})"
    elif fast["rule_proved"]:
        yield f"the speculative server names its acceptance rule: {fast['rule']}"
    else:
        yield f"the speculative server does not say which acceptance rule is in force; the arm claims: {fast['rule']}"
    if not all(f["token_ids"] and f["logprobs"] for f in seen.values()):
        yield "a server gives no token ids or no log-probabilities: answers that differ cannot be explained"
    if "target" in seen and seen["target"].get("root") != fast.get("root"):
        yield f"the servers name different models ({seen['target'].get('root')}, {fast.get('root')}): nothing shows that the target's weights are the same"
    if "target" in seen and seen["target"]["engine_version"] != fast["engine_version"]:
        yield f"the servers run different versions ({seen['target']['engine_version']}, {fast['engine_version']})"


def vllm_remarks(jobs: Sequence[Job], probed: Mapping[str, Probed], resolved: Json) -> Iterator[str]:
    """What the events of a screen of a vLLM that we start say beside the preflight."""
    arms = {j.role: j.arm for j in jobs if isinstance(j.arm, VllmArm)}
    if not arms:
        return
    for role, reason in resolved.get("absent", {}).items():
        yield f"no {role} arm: {reason}"
    yield from _of_the_leak(arms, resolved)
    seen = {role: p.fingerprint for role, p in probed.items() if role in arms}
    if "speculative" not in seen:
        return
    fast = seen["speculative"]
    shown = fast.get("rule_proof") or ("told by the engine" if fast["rule_proved"] else "")
    yield f"rule in force: {fast['rule']} ({shown or 'as claimed; this vLLM does not say'})"
    if not fast["tested"]:
        yield f"vLLM {fast['engine_version']} was not tested with this specsafe"
