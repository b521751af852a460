"""Verification of Mixture-of-Experts kernels against a correctness-first oracle.

What a port needs stands here: `Layer` and its parts, `Numerics`, `Params`, `Blocks`.
"""

from __future__ import annotations

from pathlib import Path

import oracle
from oracle.numerics import PRESETS, Elementary, Numerics, ulps
from oracle.params import Blocks, Params
from oracle.spec import Activation, BlockFormat, Layer, Routing, Shared
from oracle.trace import TAPS, Tap, Trace

__all__ = [
    "Layer", "Routing", "Activation", "Shared", "BlockFormat",
    "Params", "Blocks",
    "Numerics", "Elementary", "PRESETS", "ulps",
    "Tap", "Trace", "TAPS",
]  # fmt: skip

_HOME = Path(__file__).resolve().parent.parent
if Path(oracle.__file__ or "").resolve().parent.parent != _HOME:
    raise ImportError(
        f"refmoe needs the package `oracle` in {_HOME}, but {oracle.__file__} was "
        "imported; remove or rename the other one"
    )
