"""Arms whose answers were made elsewhere: files of ours, logs of Inspect, samples of lm-evaluation-harness."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specsafe.engines.arm_base import FrozenArm

RECORDED_KINDS = ("recorded", "inspect", "lm_eval")
_LOSSY = "the answers come from an acceptance rule that is known to be lossy"
_SAID = "temperature at which the answers were made, where the file does not say it"


class AnswersArm(FrozenArm):
    """Answers that were made elsewhere, and are there already."""

    kind: str
    path: str
    temperature: float | None
    lossy: bool = Field(False, description=_LOSSY)

    @property
    def lossless(self) -> bool:
        """Whether the recorded rule claims to change nothing."""
        return not self.lossy


class RecordedArm(AnswersArm):
    """Answers that were made elsewhere: a JSONL file, one object a line."""

    kind: Literal["recorded"] = "recorded"
    path: str = Field(
        description="JSONL with item (or prompt), text and optional token_ids, logprobs, top, …"
    )
    temperature: float = Field(0.0, ge=0, le=5, description="temperature at which the answers were made")


class InspectArm(AnswersArm):
    """A log of Inspect: an .eval or .json file of `inspect eval`."""

    kind: Literal["inspect"] = "inspect"
    path: str = Field(
        description="an .eval or .json log, or a pattern such as logs/*.eval whose files are one arm"
    )
    temperature: float | None = Field(None, ge=0, le=5, description=_SAID)
    epoch: int | None = Field(None, ge=1, description="which epoch, where the log holds several")
    choice: int | None = Field(
        None, ge=1, description="which of several answers to one request, the first is 1"
    )


class LmEvalArm(AnswersArm):
    """Samples of lm-evaluation-harness: a samples_*.jsonl file of `lm-eval run --log_samples`."""

    kind: Literal["lm_eval"] = "lm_eval"
    path: str = Field(
        description="a samples_*.jsonl file, or a pattern such as out/samples_*.jsonl whose files are one arm"
    )
    temperature: float | None = Field(None, ge=0, le=5, description=_SAID)
    repeat: int | None = Field(
        None, ge=1, description="which of several answers to one request, the first is 1"
    )
