"""The port of the kernels on a CPU: ``refmoe verify refmoe.kernels.emulated``.

The same launchers and the same CUDA text, run by `refmoe.kernels.emulator`: results and
refusals are those of the GPU, elementary functions apart, at a ten-thousandth of the
speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from refmoe.kernels import port
from refmoe.kernels.emulator import emulated
from refmoe.protocol import OPS

name, device = "refmoe.kernels.emulated", "cpu"
_RUN = {op.replace("+", "_") for op in (*OPS, "prepare")}
_OWN = (*_RUN, "name", "device", "tactics")
_ATTRIBUTES = {key for key in port.__all__ if key not in _OWN}


def _through_emulator(op: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(op)
    def run(*arguments: Any, **keywords: Any) -> Any:
        with emulated():
            return op(*arguments, **keywords)

    return run


def tactics(case: Any) -> tuple[str, ...]:
    """One tile of tensor cores stands for all: each costs a host compilation."""
    if case.op not in port.MULTIPLYING:
        return ()
    forms = port.forms(case.layer)[1:] if case.op == "moe" else ()
    return ("naive", "mma_medium", "torch", *(f"{form}:naive" for form in forms))


def __getattr__(name: str) -> Any:
    if name in _RUN and name in port.__all__:
        return _through_emulator(getattr(port, name))
    if name in _ATTRIBUTES:
        return getattr(port, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
