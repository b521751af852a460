"""Kernels on a CPU: the emulator, with its libraries kept for the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refmoe.kernels import compiler, emulator

#: A script of its own for a machine with a GPU.
collect_ignore = ["gpu_check.py", "on_gpu"]


@pytest.fixture(scope="session")
def host_compiler() -> str:
    try:
        return emulator.compiler()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def nvrtc() -> tuple[int, int]:
    """NVRTC's version; without it nothing can be compiled for a GPU."""
    try:
        return compiler.version()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def emulated(host_compiler: str) -> Iterator[None]:
    """Launches run on the CPU, on CPU tensors."""
    with emulator.emulated():
        yield


@pytest.fixture(params=[0, 5], ids=["in_order", "shuffled"])
def any_order(request: pytest.FixtureRequest, host_compiler: str) -> Iterator[None]:
    """Like `emulated`, with the threads of a block in two different orders."""
    with emulator.emulated(seed=request.param):
        yield
