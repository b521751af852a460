"""What a port declares: its accumulator, rounding points and elementary functions."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from oracle.numerics.units import ACCUMULATORS, FP32_CLASS, Accumulator
from oracle.spec import choose

Subnormals = Literal["keep", "flush"]
CombineOrder = Literal["any", "slot", "expert"]
Ties = Literal["lowest", "any", "highest"]


@dataclass(frozen=True, slots=True, repr=False)
class Elementary:
    """The error of one elementary function f, of its argument as given.

    |got - f(x)| <= (relative + slope |x|) |f(x)| + absolute.

    `type` is what it is evaluated in. With `landmarks`, results that every evaluation
    in that type returns exactly count as exact: a limit that is close enough, zero
    below half the least subnormal, Inf past the largest value, exp(0) = 1 and the like
    (the list is in `oracle.bounds.elementary`).
    """

    relative: float
    absolute: float = 2.0**-149
    slope: float = 0.0
    type: str = "fp32"
    landmarks: bool = True

    def __repr__(self) -> str:
        return _shortest(self)


def ulps(count: float) -> Elementary:
    """`count` units in the last place of fp32, counted as relative error."""
    return Elementary(count * 2.0**-23)


#: Correctly rounded in fp32.
CORRECT = ulps(0.5)
_ULP, _ULPS_2, _ULPS_3 = ulps(1), ulps(2), ulps(3)
#: 1 / (1 + exp(-v)) is 0 wherever exp(-v) overflows, which is below 2^-128.
_SIGMOID = Elementary(4 * 2.0**-23, 2.0**-128)


@dataclass(frozen=True, slots=True, repr=False)
class Numerics:
    """The arithmetic that a port declares.

    A rounding point holds the type that a stage's result passes through: "fp32",
    "bf16", "fp16", "fp64", or "none" (not rounded beyond the stage's own arithmetic).
    `output` None means the layer's dtype.

    >>> Numerics(accumulate="hmma_hopper", intermediate="bf16")
    Numerics(accumulate='hmma_hopper')
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
    #: Block-scaled weights once dequantised ("none": their codes meet the unit).
    dequantized: str = "none"
    #: Either GEMM's result before its bias is added.
    gemm: str = "none"
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
    erf: Elementary = _ULPS_3
    log: Elementary = _ULPS_2
    sqrt: Elementary = _ULP
    divide: Elementary = CORRECT
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
        return _UNITS[self.accumulate]

    @property
    def takes_codes(self) -> bool:
        """Whether the unit multiplies the codes of block formats themselves."""
        return any(unit.codes for unit in self.units)

    def but(self, **changes: object) -> Numerics:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        """The shortest Python that builds it: what differs from the default."""
        return _shortest(self)


_UNITS: dict[str, tuple[Accumulator, ...]] = {
    "fp32": tuple(ACCUMULATORS[name] for name in FP32_CLASS),
    **{name: (unit,) for name, unit in ACCUMULATORS.items()},
}


def _shortest(declaration: Elementary | Numerics) -> str:
    """The call that builds a dataclass, without the arguments left at their default."""
    parts = []
    for entry in fields(declaration):
        value = getattr(declaration, entry.name)
        if value != entry.default:
            parts.append(f"{entry.name}={value!r}")
    return f"{type(declaration).__name__}({', '.join(parts)})"


ROUNDING_POINTS = (
    "partial", "logits", "router", "weights", "dequantized", "gemm", "gate_up",
    "activation", "intermediate", "down", "weighted", "combine", "shared",
)  # fmt: skip
