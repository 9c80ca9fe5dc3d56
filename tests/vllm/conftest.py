"""What needs vLLM: an interpreter that has it, which is seldom the one that runs the tests."""

import os

import pytest


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The interpreter of an environment with vLLM."""
    python = os.environ.get("LANCE_VLLM_PYTHON")
    if not python:
        pytest.skip("LANCE_VLLM_PYTHON names no interpreter with vLLM; make test-vllm installs one and sets it")
    return python
