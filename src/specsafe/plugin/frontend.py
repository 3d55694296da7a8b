"""The entry point of `vllm.general_plugins`: requests are checked where they arrive, so that a bad one is refused alone.

vLLM calls `register` in every process, sometimes twice. It changes one thing: what vLLM checks of a configuration and of
a request is checked of our fields too. A request that names a rule is refused by a server that has not our worker, never
answered by vLLM's own rule.
"""

from __future__ import annotations

import logging
from functools import wraps
from typing import Any

from specsafe.errors import UserError
from specsafe.plugin.server import Served, require_openings, require_version, served, vllm_version
from specsafe.plugin.setting import PREFIX, read_fields, require_possible

WORKER = "specsafe.plugin.worker.Worker"
_MARK = "_specsafe"


def register() -> None:
    """Put our check behind vLLM's own. A vLLM that we were not tested with is left alone, and its log says so."""
    try:
        require_version(vllm_version())
    except UserError as error:
        logging.getLogger("vllm.specsafe").warning("%s", error)
        return
    from vllm.v1.engine.input_processor import InputProcessor

    if registered():
        return
    begin, check = InputProcessor.__init__, InputProcessor._validate_params

    @wraps(begin)
    def begin_checked(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, vllm_config, *args, **kwargs)  # which fetches the tokenizer, if need be
        setattr(self, _MARK, ours(vllm_config))

    @wraps(check)
    def check_all(self: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        checked = check(self, params, *args, **kwargs)
        check_request(getattr(self, _MARK), params)
        return checked

    setattr(check_all, _MARK, True)
    InputProcessor.__init__, InputProcessor._validate_params = begin_checked, check_all


def registered() -> bool:
    """Whether requests of this process are checked."""
    from vllm.v1.engine.input_processor import InputProcessor

    return hasattr(InputProcessor._validate_params, _MARK)


def ours(config: Any) -> Served | None:
    """What a server with our worker gives; None with another one. Raises UserError where setting and worker do not fit."""
    if has_worker(config.parallel_config.worker_cls):
        return served(config)
    fields = config.additional_config if isinstance(config.additional_config, dict) else {}
    if any(key.startswith(PREFIX) for key in fields):
        raise UserError(
            "additional_config names a setting of specsafe, and vLLM's own worker would run",
            f"start with --worker-cls {WORKER}",
        )
    return None


def has_worker(name: Any) -> bool:
    """Whether a worker class is ours, or made from it."""
    if not isinstance(name, str) or name == "auto" or name.startswith("vllm."):
        return False
    from vllm.utils.import_utils import resolve_obj_by_qualname

    return name == WORKER or any(
        f"{c.__module__}.{c.__qualname__}" == WORKER for c in resolve_obj_by_qualname(name).__mro__
    )


def check_request(server: Served | None, params: Any) -> None:
    """Refuse a request that cannot be decided as it asks. Raises vLLM's error of a request."""
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams

    if not isinstance(params, SamplingParams):
        return
    try:
        asked = read_fields(params.extra_args)
        if server is not None:
            asked = asked or server.default
            require_possible(asked, server.reach, params)
            if asked.method is not None:
                require_openings(*server.tokenizer)
        elif asked is not None:
            raise UserError(
                f"{asked.text} was asked for, and this server runs vLLM's own worker",
                f"start it with --worker-cls {WORKER}",
            )
    except UserError as error:
        raise VLLMValidationError(f"specsafe: {error}") from error
