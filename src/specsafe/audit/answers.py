"""What is audited: the answers of one role of a ledger, or of a JSONL file, each with its prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from specsafe.battery import Item, load_battery
from specsafe.battery.readers import read_json_lines
from specsafe.engines import Failure, RecordedArm, Request
from specsafe.engines.base import Claim, Json
from specsafe.engines.recorded import open_session
from specsafe.errors import UserError
from specsafe.study.answers import text_hash
from specsafe.study.ledger import Ledger, ledger_path, read_ledger
from specsafe.study.schema import dump

ROLE = "speculative"
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True)
class Answers:
    """Answers to audit, by item, and those that cannot be.

    source: where they come from, in words. arm, fingerprint: of the arm that made them; empty where not known.
    """

    source: str
    role: str | None
    claims: tuple[Claim, ...]
    failed: tuple[Failure, ...]
    arm: Json
    fingerprint: Json

    @property
    def sha256(self) -> str:
        """Hash over all claims."""
        return text_hash(dump([claim_key(c) for c in self.claims]))


def claim_key(claim: Claim) -> str:
    """Hash of everything that an audit looks at."""
    return text_hash(dump([claim.item, claim.prompt, claim.text, claim.token_ids, claim.finish]))


def read_answers(path: Path, role: str | None, battery: str | None) -> Answers:
    """Read a screen's folder, a ledger or a JSONL file. Raises UserError for what holds nothing to audit.

    role: of a ledger, None is ROLE. battery: prompts of a JSONL file whose lines name items.
    """
    if is_ledger(path):
        if battery is not None:
            raise UserError("a ledger holds its own prompts", "leave --battery out")
        with read_ledger(path) as ledger:
            found = _of_ledger(ledger, role or ROLE)
    else:
        if role is not None:
            raise UserError("a file of answers has no roles", "leave --role out")
        found = _of_lines(path, battery)
    if not found.claims and not found.failed:
        raise UserError(f"{path} holds no answers to audit", "name a screen that has begun, or a JSONL file")
    return found


def is_ledger(path: Path) -> bool:
    """Whether a path is a folder or a SQLite file. Raises UserError if nothing is there."""
    if path.is_dir():
        return True
    if not path.is_file():
        raise UserError(
            f"no answers at {path}", "name a screen's folder, a ledger.sqlite, or a JSONL of answers"
        )
    with path.open("rb") as stream:
        return stream.read(len(_SQLITE)) == _SQLITE


def beside(path: Path, role: str | None) -> Path:
    """The folder in which results of an audit go by default."""
    if is_ledger(path):
        return ledger_path(path).parent / f"audit-{role or ROLE}"
    return path.with_name(f"{path.stem}-audit")


def with_known_tokens(claims: tuple[Claim, ...], made: Json, target: Json) -> tuple[tuple[Claim, ...], str]:
    """Token ids are dropped where they may belong to another vocabulary -> (claims, what was decided, in words).

    made, target: fingerprints of the arm that answered and of the auditing target. The same model file or the same
    tokenizer hash: the ids mean the same. Other hashes: the text is tokenized again. Nothing known (recorded
    answers): the ids stand. In every case the auditor takes ids only where they spell the answer's text.
    """
    for fact in ("model_sha256", "tokenizer_sha256"):
        if made.get(fact) is not None and made[fact] == target.get(fact):
            return claims, f"token ids as recorded: {fact} is the target's"
    if "model_sha256" in made or "tokenizer_sha256" in made:
        bare = tuple(replace(c, token_ids=None) for c in claims)
        return bare, "every text tokenized again: the answers were made with another tokenizer"
    return claims, "token ids as recorded where they spell the text: whose they are is not known"


def _of_ledger(ledger: Ledger, role: str) -> Answers:
    arms = ledger.arms()
    if role not in arms:
        raise UserError(f"this ledger has no {role} arm", f"--role is one of: {', '.join(arms)}")
    arm = arms[role]
    _require_greedy({**(arm["fingerprint"] or {}), **_stated(arm["config"])})
    answers = ledger.answers(arm["id"], arm["replicate"])
    prompts = {i.id: i.prompt for i in ledger.items()}
    ids = {i: t.ids for i, t in answers.tokens(answers.keys()).items()}
    texts = answers.texts(answers.keys())
    claims = [Claim(i, prompts[i], texts[i], ids.get(i), answers[i].finish) for i in sorted(answers)]
    failed = [
        Failure(f.item, f"it was never answered: {f.reason}", f.tries)
        for f in ledger.failures(arm["id"], arm["replicate"])
    ]
    return Answers(
        source=f"study {ledger.study}",
        role=role,
        claims=tuple(claims),
        failed=tuple(failed),
        arm=arm["config"],
        fingerprint=arm["fingerprint"] or {},
    )


def _stated(config: Json) -> Json:
    """Without what is left open there: a recording's file may say it."""
    return {k: v for k, v in config.items() if v is not None}


def _require_greedy(config: Json) -> None:
    if config.get("temperature"):
        raise UserError(
            f"these answers were drawn at temperature {config['temperature']:g}",
            "an audit tells whether answers at temperature 0 are the target's own",
        )


def _of_lines(path: Path, battery: str | None) -> Answers:
    session = open_session(RecordedArm(path=str(path)))  # which also says what is wrong with a line
    requests, failed = _requests(path, session.keys(), load_battery(battery).items if battery else ())
    if failed and battery is None:
        raise UserError(f"{path}: {failed[0].item}: {failed[0].reason}", "add a prompt to it, or --battery")
    claims: list[Claim] = []
    for answer in session.generate(requests.values()):
        if isinstance(answer, Failure):
            failed.append(Failure(answer.item, f"it was never answered: {answer.reason}", answer.tries))
        else:
            prompt = requests[answer.item].prompt
            claims.append(Claim(answer.item, prompt, answer.text, answer.token_ids, answer.finish))
    ordered = sorted(claims, key=lambda c: c.item)
    return Answers(f"file {path.name}", None, tuple(ordered), tuple(failed), {}, {})


def _requests(
    path: Path, lines: Collection[tuple[str, str]], items: Sequence[Item]
) -> tuple[dict[str, Request], list[Failure]]:
    """Item id -> request, of the battery and of lines with a prompt of their own; and lines that have none."""
    requests = {i.id: Request(i.id, i.prompt) for i in items}
    by_prompt = {i.prompt: i.id for i in items}
    failed: list[Failure] = []
    for where, row in read_json_lines(path):
        prompt: str | None = row.get("prompt")
        item: str | None = row.get("item")
        if item is None:
            prompt = prompt or ""
            item = by_prompt.get(prompt) or text_hash(prompt)[:16]
            if ("item", item) in lines:
                failed.append(Failure(f"{where} ({item})", "another line answers this item by its id", 0))
                continue
        if item not in requests and prompt is None:
            failed.append(Failure(item, "its prompt is not known", 0))
        elif prompt is not None and requests.setdefault(item, Request(item, prompt)).prompt != prompt:
            raise UserError(
                f"{path}, {where}: item {item} has another prompt in the battery", "mend the line"
            )
    return requests, failed
