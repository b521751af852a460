"""How an implementation may round: declared, never guessed.

`Numerics` names the accumulator of the matrix unit, the type at every rounding point
and the errors of the elementary functions. `oracle.bounds` turns it into an interval
for every element of every tap. Two implementations that differ only here are both
right.
"""

from oracle.numerics.declared import (
    CORRECT,
    ROUNDING_POINTS,
    CombineOrder,
    Elementary,
    Numerics,
    Subnormals,
    Ties,
    ulps,
)
from oracle.numerics.presets import PRESETS
from oracle.numerics.units import ACCUMULATORS, FP32_CLASS, Accumulator

__all__ = [
    "ACCUMULATORS", "CORRECT", "FP32_CLASS", "PRESETS", "ROUNDING_POINTS",
    "Accumulator", "CombineOrder", "Elementary", "Numerics", "Subnormals", "Ties",
    "ulps",
]  # fmt: skip
