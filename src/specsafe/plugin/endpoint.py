"""The entry point of `vllm.endpoint_plugins`: GET /specsafe tells what the workers' own samplers decide by.

vLLM loads it where VLLM_PLUGINS names it. The answer comes from the workers themselves: a plugin that was skipped has none.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from specsafe.plugin.frontend import has_worker

PATH = "/specsafe"


class Endpoint:
    """See vllm.plugins.endpoint_plugins.interface."""

    name = "specsafe"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Add the page."""

        async def page(request: Request) -> JSONResponse:
            return JSONResponse(await report(request.app.state.specsafe_client))

        app.add_route(PATH, page)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Keep the way to the workers."""
        state.specsafe_client = engine_client


async def report(client: Any) -> dict[str, Any]:
    """{"workers": what each worker reports}; none where the server runs another worker than ours."""
    if client is None or not has_worker(client.vllm_config.parallel_config.worker_cls):
        return {"workers": []}
    return {"workers": await client.collective_rpc("specsafe_report")}
