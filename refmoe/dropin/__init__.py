"""The kernels under other libraries' call signatures, to swap in and bisect.

Each function takes the arguments of the one it stands in for, in their layouts, and
raises NotImplementedError naming the argument that it has no kernel for. Each library
is a port as well, whose ops go through those signatures: ``refmoe verify
refmoe.dropin:flashinfer``, ``:omni`` and ``:sglang`` (`refmoe.dropin.emulated` on a
CPU). Nothing heavy is imported before one is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

LIBRARIES = ("flashinfer", "omni", "sglang")


def __getattr__(name: str) -> Any:
    if name in LIBRARIES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*globals(), *LIBRARIES))
