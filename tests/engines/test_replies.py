"""Room: engines. A request about an answer reaches the engine that can be asked so, and no other answers it as a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from specsafe.engines import Request, open_session, parse_arm
from specsafe.engines.base import Session
from specsafe.engines.openai import OpenAISession
from specsafe.engines.worker import WorkerSession, WorkerSpec
from specsafe.errors import UserError

ABOUT = Request("a", "Hi", reply="Ho")


def worker(*, reads_replies: bool) -> WorkerSession:
    """A session whose process was never started: nothing may be asked of it."""
    session = WorkerSession.__new__(WorkerSession)
    session._spec = WorkerSpec(
        "m", {}, "llama.cpp", "m", {}, 1, lambda _: pytest.fail("asked"), reads_replies
    )
    return session


def recorded(folder: Path) -> Session:
    (folder / "a.jsonl").write_text('{"item": "a", "text": "Ho"}')
    return open_session(parse_arm(f"kind=recorded,path={folder / 'a.jsonl'}"))


@pytest.mark.parametrize("kind", ["llama", "recorded", "openai"])
def test_who_cannot_be_asked_about_an_answer_says_so(kind: str, tmp_path: Path) -> None:
    sessions = {
        "llama": lambda: worker(reads_replies=False),
        "recorded": lambda: recorded(tmp_path),
        "openai": lambda: OpenAISession.__new__(OpenAISession),
    }
    with pytest.raises(UserError, match="cannot be asked about an answer"):
        list(sessions[kind]().generate([ABOUT]))


def test_the_native_worker_reads_the_answer_beside_the_prompt() -> None:
    plain = {"item": "a", "prompt": "Hi", "replicate": 0}
    assert worker(reads_replies=True).line(ABOUT) == {**plain, "reply": "Ho"}
    assert worker(reads_replies=True).line(Request("a", "Hi", reply="")) == {**plain, "reply": ""}
    for reads in (True, False):
        assert worker(reads_replies=reads).line(Request("a", "Hi")) == plain
