"""The port of the kernels on a CPU: ``refmoe verify refmoe.kernels.emulated``.

The same launchers and the same CUDA text, run by `refmoe.kernels.emulator`: results and
refusals are those of the GPU, elementary functions apart, at a ten-thousandth of the
speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import SimpleNamespace
from typing import Any

from refmoe.kernels import port
from refmoe.kernels.emulator import emulated
from refmoe.kernels.preparations import PREPARATIONS, prepared
from refmoe.protocol import OPS

name, device = "refmoe.kernels.emulated", "cpu"
_RUN = {op.replace("+", "_") for op in (*OPS, "prepare")}
_OWN = (*_RUN, "name", "device", "tactics", "on_arch", "emulates")
#: Matrix units of the architectures that can be stood in for.
_UNITS = {
    "sm_80": "ampere", "sm_86": "ampere", "sm_89": "ampere", "sm_90": "hopper",
    "sm_90a": "hopper",
}  # fmt: skip
emulates = tuple(_UNITS)
#: Those of the innermost `on_arch` come last.
_entered = ["hopper"]
_ATTRIBUTES = {key for key in port.__all__ if key not in _OWN}


def _through_emulator(op: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(op)
    def run(*arguments: Any, **keywords: Any) -> Any:
        with emulated(unit=_entered[-1]):
            return op(*arguments, **keywords)

    return run


@contextmanager
def on_arch(arch: str) -> Iterator[None]:
    """Within it, sums are those of this architecture's matrix unit.

    Raises ValueError for one whose unit has no emulation.
    """
    if arch not in _UNITS:
        raise ValueError(f"{arch} is not emulated; there is {', '.join(emulates)}")
    _entered.append(_UNITS[arch])
    try:
        yield
    finally:
        _entered.pop()


def tactics(case: Any) -> tuple[str, ...]:
    """One tile of tensor cores, and one 16-bit type, stand for all: each costs a host
    compilation.
    """
    if case.op not in port.MULTIPLYING:
        return port.tactics(case)[:2]
    forms = port.forms(case.layer)[1:] if case.op == "moe" else ()
    return ("naive", "mma_medium", "torch", *(f"{form}:naive" for form in forms))


def _naive(case: Any) -> tuple[str, ...]:
    return ("naive", "modular:naive") if case.op == "moe" else ("naive",)


def __getattr__(name: str) -> Any:
    if name in _RUN and name in port.__all__:
        return _through_emulator(getattr(port, name))
    if name in _ATTRIBUTES:
        return getattr(port, name)
    if name in PREPARATIONS:
        found = dict(vars(prepared(name)))
        found |= {key: _through_emulator(found[key]) for key in _RUN if key in found}
        found |= {"name": f"{__name__}:{name}", "device": device, "tactics": _naive}
        found |= {"on_arch": on_arch, "emulates": emulates}
        return SimpleNamespace(**found)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
