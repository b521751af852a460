"""Kernels on a CPU: the emulator, with its libraries kept for the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from oracle import bounds
from oracle.activation import activate
from oracle.experts import grouped_gemm
from oracle.numerics import Numerics
from refmoe.kernels import compiler, emulator
from refmoe.kernels.launchers.gemm import Gemm

#: A script of its own for a machine with a GPU.
collect_ignore = ["gpu_check.py", "sanitize.py", "on_gpu"]


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


@pytest.fixture(scope="session")
def within_bounds() -> Callable[[Gemm, torch.Tensor], bool]:
    """Whether a plain GEMM's result lies in the bounds of the oracle's epilogue."""
    numerics = Numerics(intermediate="fp32")

    def judged(problem: Gemm, got: torch.Tensor) -> bool:
        count = int(problem.offsets[-1])
        place = torch.arange(count)
        slots = place if problem.slots is None else problem.slots[:count].long()
        owner = torch.arange(len(problem.w)).repeat_interleave(problem.offsets.diff())
        x = bounds.exactly(problem.x[slots // problem.choices].double())
        tap = grouped_gemm(
            x, problem.w, problem.offsets, numerics, bias=problem.bias, point="fp32"
        )
        if problem.activation is not None:
            own = problem.constants
            constants = {
                name: values[owner]
                for name in ("alpha", "beta", "limit")
                if (values := getattr(own, name, None)) is not None
            }
            tap = activate(tap, problem.activation, numerics, **constants)
        if problem.weights is not None:
            weights = bounds.exactly(problem.weights[slots].double()[:, None])
            tap = bounds.multiply(tap, weights, "fp32", numerics)
        tap = bounds.rounded(tap, "fp32", numerics)
        assert tap.worst is not None
        error = (got[:count].double() - tap.value).abs()
        return bool((error <= tap.worst).all()) and not bool(got[count:].any())

    return judged
