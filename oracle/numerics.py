"""How an implementation may round: declared, never guessed.

`Numerics` names the accumulator of the matrix unit, the type at every rounding point
and the errors of the elementary functions. `oracle.bounds` turns it into an interval
for every element of every tap. Two implementations that differ only here are both
right.

Sources: Fasi, Higham, Mikaitis, Pranesh 2021 (V100, T4, A100); Khattak, Mikaitis 2026
and MMA-Sim 2511.10909 (Hopper, Ada, Blackwell); CUDA C++ Programming Guide, table of
maximum errors of the mathematical functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from oracle.spec import choose

AccumulatorRounding = Literal["nearest", "truncate", "exact"]
Subnormals = Literal["keep", "flush"]
CombineOrder = Literal["any", "slot", "expert"]
Ties = Literal["lowest", "any", "highest"]


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
        Accumulator("hmma_hopper", 16, 25, 23),
        Accumulator("tcgen05_bf16", 16, 25, 23),
        Accumulator("tcgen05_fp8", 32, 25, 23),
        Accumulator("tcgen05_fp4", 4, 35, 23, group=16),
        Accumulator("qmma_ada", 16, 13, 13),
        Accumulator("qgmma_hopper", 32, 13, 13),
        Accumulator("qgmma_hopper_promoted", 32, 13, 13, promote=128),
        Accumulator("bf16", 1, 7, 7, "nearest", minimum_exponent=-126),
        Accumulator("fp16", 1, 10, 10, "nearest", minimum_exponent=-14),
        Accumulator("int32", 1, 31, 31, "exact"),
    )
}

#: Units whose running sum carries a full fp32 significand.
FP32_CLASS = ("ffma", "hmma_volta", "hmma_ampere", "hmma_hopper", "tcgen05_bf16")


@dataclass(frozen=True, slots=True)
class Elementary:
    """The error of one elementary function: |got - f(x)| <= relative |f(x)| + absolute.

    `type` is what it is evaluated in. With `landmarks`, results that every evaluation
    in that type returns exactly count as exact: a limit closer than a quarter ulp, zero
    below half the least subnormal, Inf past the largest value, exp(0) = 1 and the like
    (the list is in `oracle.bounds.elementary`).
    """

    relative: float
    absolute: float = 2.0**-149
    type: str = "fp32"
    landmarks: bool = True


def ulps(count: float) -> Elementary:
    """`count` units in the last place of fp32, counted as relative error."""
    return Elementary(count * 2.0**-23)


_ULP_1, _ULPS_2 = ulps(1), ulps(2)
#: 1 / (1 + exp(-v)) is 0 wherever exp(-v) overflows, which is below 2^-128.
_SIGMOID = Elementary(4 * 2.0**-23, 2.0**-128)


@dataclass(frozen=True, slots=True)
class Numerics:
    """The arithmetic that a port declares.

    A rounding point holds the type that a stage's result passes through: "fp32",
    "bf16", "fp16", "fp64", or "none" (not rounded beyond the stage's own arithmetic).
    `output` None means the layer's dtype.

    >>> Numerics(accumulate="hmma_hopper", intermediate="bf16").combine
    'fp32'
    """

    #: A name of ACCUMULATORS or "fp32": the largest error of the FP32_CLASS.
    accumulate: str = "fp32"
    #: Number of partial sums K may be split into (any order), and their type.
    split_k: int = 1
    partial: str = "fp32"
    #: Type that a router rounds the logits to that it is given ("none": as given).
    logits: str = "none"
    #: Types of the router's arithmetic and of the weights it hands on.
    router: str = "fp32"
    weights: str = "fp32"
    #: GEMM1's result after bias; the activation's arithmetic; its result.
    gate_up: str = "fp32"
    activation: str = "fp32"
    intermediate: str = "bf16"
    #: GEMM2's result after bias, each weighted row, the running sum over k.
    down: str = "fp32"
    weighted: str = "fp32"
    combine: str = "fp32"
    combine_order: CombineOrder = "any"
    #: Shared expert's result before it is added.
    shared: str = "fp32"
    output: str | None = None
    #: Whether a kernel may skip the roundings between the operations of one stage.
    fused: bool = True
    exp: Elementary = _ULPS_2
    sigmoid: Elementary = _SIGMOID
    tanh: Elementary = _ULPS_2
    erf: Elementary = _ULPS_2
    log: Elementary = _ULPS_2
    sqrt: Elementary = _ULP_1
    divide: Elementary = _ULP_1
    subnormals: Subnormals = "keep"
    #: Which of two experts with equal keys is chosen; the contract is the lowest index.
    ties: Ties = "lowest"

    def __post_init__(self) -> None:
        choose("Numerics", "accumulate", self.accumulate, ("fp32", *ACCUMULATORS))
        choose("Numerics", "subnormals", self.subnormals, get_args(Subnormals))
        choose("Numerics", "combine_order", self.combine_order, get_args(CombineOrder))
        choose("Numerics", "ties", self.ties, get_args(Ties))
        types = ("none", "fp64", "fp32", "bf16", "fp16")
        for point in ROUNDING_POINTS:
            choose("Numerics", point, getattr(self, point), types)
        choose("Numerics", "output", self.output, (None, *types))
        if self.split_k < 1:
            raise ValueError(f"Numerics: split_k={self.split_k} must be at least 1")

    @property
    def units(self) -> tuple[Accumulator, ...]:
        """The accumulators that `accumulate` admits."""
        names = FP32_CLASS if self.accumulate == "fp32" else (self.accumulate,)
        return tuple(ACCUMULATORS[name] for name in names)

    def but(self, **changes: object) -> Numerics:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


ROUNDING_POINTS = (
    "partial", "logits", "router", "weights", "gate_up", "activation", "intermediate", "down",
    "weighted", "combine", "shared",
)  # fmt: skip

_FAST = {
    "exp": Elementary(2.0**-21, 2.0**-126),
    "sigmoid": Elementary(2.0**-20, 2.0**-126),
    "tanh": Elementary(2.0**-10.9, 2.0**-126),
    "divide": Elementary(2.0**-22, 2.0**-126),
}

#: Named arithmetics. "reference": everything in float64, rounded once at the output.
PRESETS: dict[str, Numerics] = {
    "ieee": Numerics(),
    "cuda_fast": Numerics(subnormals="flush", **_FAST),  # type: ignore[arg-type]
    "reference": Numerics(
        accumulate="fp64", partial="fp64", router="fp64", weights="fp64",
        gate_up="fp64", activation="fp64", intermediate="fp64", down="fp64",
        weighted="fp64", combine="fp64", shared="fp64",
        **{name: Elementary(4 * 2.0**-52, math.ldexp(1.0, -1074), "fp64")
           for name in ("exp", "sigmoid", "tanh", "erf", "log", "sqrt", "divide")},  # type: ignore[arg-type]
    ),
}  # fmt: skip
