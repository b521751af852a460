"""Accumulators of the matrix units: what one step adds, and where it cuts.

Sources: Fasi, Higham, Mikaitis, Pranesh 2021 (V100, T4, A100); Khattak, Mikaitis 2026
and MMA-Sim 2511.10909 (Ada, Hopper, Blackwell); Hopper's were measured on an H100, bit
for bit (vectors ``hardware_h100``). AMD's CDNA3 units (8 terms, F = 24, the
sum rounded to nearest) stay inside the bounds of the fp32 class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from oracle.spec import choose

AccumulatorRounding = Literal["nearest", "truncate", "exact"]


@dataclass(frozen=True, slots=True)
class Accumulator:
    """One step of a matrix unit: `terms` products (or groups) and the sum so far.

    Each term is cut to a multiple of 2**(E - fraction), E the largest exponent among
    them; the exact sum of those is cut to `out_fraction` fraction bits. ``truncate``
    cuts toward zero (tensor cores); ``nearest`` rounds half to even (FFMA, CPUs), where
    the terms themselves are not cut; ``exact`` sums integers and turns into fp32 once.
    After `promote` products (0: never) the running sum is added into an fp32 register
    rounded to nearest, and starts again from zero.
    """

    name: str
    terms: int
    fraction: int
    out_fraction: int
    rounding: AccumulatorRounding = "truncate"
    promote: int = 0
    #: Products that are summed exactly first, and aligned by their scales' exponents.
    group: int = 1
    #: Whether operands are FP8 or FP4 codes, rather than 16-bit values.
    codes: bool = False
    #: Exponent below which alignment does not go; of the least normal value (nearest).
    minimum_exponent: int = -132

    def __post_init__(self) -> None:
        choose("Accumulator", "rounding", self.rounding, get_args(AccumulatorRounding))

    @property
    def biased(self) -> bool:
        """Whether every cut goes one way, so that errors drift instead of averaging."""
        return self.rounding == "truncate"

    @property
    def roundoff(self) -> float:
        """Largest relative error of one rounding of the running sum."""
        return 2.0 ** -(self.out_fraction + (not self.biased))


#: Every unit the project knows. "fp32" in Numerics means: any of FP32_CLASS.
ACCUMULATORS: dict[str, Accumulator] = {
    unit.name: unit
    for unit in (
        Accumulator("fp64", 1, 52, 52, "nearest", minimum_exponent=-1022),
        Accumulator("ffma", 1, 23, 23, "nearest", minimum_exponent=-126),
        Accumulator("hmma_volta", 4, 23, 23),
        Accumulator("hmma_ampere", 8, 24, 23),
        Accumulator("hmma_hopper", 16, 25, 23, minimum_exponent=-133),
        Accumulator("tcgen05_bf16", 16, 25, 23),
        Accumulator("tcgen05_fp8", 32, 25, 23, codes=True),
        Accumulator("tcgen05_fp4", 4, 35, 23, group=16, codes=True),
        Accumulator("qmma_ada", 16, 13, 13, codes=True),
        Accumulator("qgmma_hopper", 32, 13, 13, codes=True),
        Accumulator("qgmma_hopper_promoted", 32, 13, 13, promote=128, codes=True),
        Accumulator("bf16", 1, 7, 7, "nearest", minimum_exponent=-126),
        Accumulator("fp16", 1, 10, 10, "nearest", minimum_exponent=-14),
        Accumulator("int32", 1, 31, 31, "exact"),
    )
}

#: Units whose running sum carries a full fp32 significand.
FP32_CLASS = ("ffma", "hmma_volta", "hmma_ampere", "hmma_hopper", "tcgen05_bf16")
