"""The drop-ins on a CPU: ``refmoe verify refmoe.dropin.emulated:flashinfer``.

The same signatures over the same CUDA text, run by `refmoe.kernels.emulator`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from refmoe.dropin import LIBRARIES
from refmoe.kernels.emulator import emulated
from refmoe.port import ATTRIBUTES
from refmoe.protocol import FUNCTIONS


def _through_emulator(op: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(op)
    def run(*arguments: Any, **keywords: Any) -> Any:
        with emulated():
            return op(*arguments, **keywords)

    return run


def __getattr__(name: str) -> Any:
    if name not in LIBRARIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    own = import_module(f"refmoe.dropin.{name}")
    ops = {key: getattr(own, key) for key in FUNCTIONS if key in own.__all__}
    found = {key: getattr(own, key) for key in ATTRIBUTES if key in own.__all__}
    found |= {key: _through_emulator(op) for key, op in ops.items()}
    return SimpleNamespace(**found | {"name": f"{__name__}:{name}", "device": "cpu"})
