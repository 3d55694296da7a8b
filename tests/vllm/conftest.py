"""Tests of the plugin run in the environment of a real vLLM; elsewhere they are not even collected."""

from __future__ import annotations

import importlib.util

import pytest

INSIDE = ["test_plugin.py", "test_sampler.py", "test_served.py", "test_starts.py"]
FOUND = importlib.util.find_spec("vllm")  # without it, this folder by the same name: one that has no origin
collect_ignore = [] if FOUND is not None and FOUND.origin else INSIDE


@pytest.fixture(scope="session")
def llm():
    """The one start that serves most tests; where a request names nothing, vLLM's own rule decides."""
    from running import started, stopped

    running = started()
    yield running
    stopped(running)
