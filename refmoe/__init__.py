"""Verification of Mixture-of-Experts kernels against a correctness-first oracle.

What a port needs stands here: `Layer` and its parts, `Numerics`, `Params`, `Blocks`.
Each is imported at its first use, since pytest loads this package with its plugins and
must not have to wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import oracle

if TYPE_CHECKING:
    from oracle.numerics import PRESETS, Elementary, Numerics, ulps
    from oracle.params import Blocks, Params
    from oracle.spec import Activation, BlockFormat, Layer, Routing, Shared
    from oracle.trace import TAPS, Tap, Trace
    from refmoe.supports import Supports

__all__ = [
    "Layer", "Routing", "Activation", "Shared", "BlockFormat",
    "Params", "Blocks",
    "Numerics", "Elementary", "PRESETS", "ulps",
    "Tap", "Trace", "TAPS",
    "Supports",
]  # fmt: skip

_HOME = Path(__file__).resolve().parent.parent
if Path(oracle.__file__ or "").resolve().parent.parent != _HOME:
    raise ImportError(
        f"refmoe needs the package `oracle` in {_HOME}, but {oracle.__file__} was "
        "imported; remove or rename the other one"
    )

_MODULES = (
    "oracle.spec", "oracle.numerics", "oracle.params", "oracle.trace",
    "refmoe.supports",
)  # fmt: skip

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The public name from the module that defines it."""
        if name in __all__:
            for module in _MODULES:
                found = getattr(import_module(module), name, None)
                if found is not None:
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """The public names, whether or not they have been imported yet."""
        return sorted({*globals(), *__all__})
