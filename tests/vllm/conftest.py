"""These tests run a real vLLM; elsewhere they are not even collected."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]


@pytest.fixture(scope="session")
def llm():
    """The one start that serves most tests; where a request names nothing, vLLM's own rule decides."""
    from running import started, stopped

    running = started()
    yield running
    stopped(running)
