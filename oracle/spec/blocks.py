"""Block formats: codes that share a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from oracle.spec.checks import at_least, choose

ScaleRule = Literal["floor", "ceil", "even", "rceil", "divide"]
Rounding = Literal["nearest_even", "half_away", "half_toward_zero", "toward_zero"]
Nonfinite = Literal["error", "propagate", "saturate"]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Codes with a scale per block: MXFP4, NVFP4, block FP8, INT8 per token ...

    `block` is (rows, columns) over the last two axes, columns along the reduction axis;
    0 stands for the whole axis. value = decode(code) * decode(scale) [* global scale].
    Presets with their sources are in `oracle.blocks.presets`.
    """

    name: str
    element: str
    block: tuple[int, int] = (1, 32)
    scale: str = "e8m0"
    scale_rule: ScaleRule = "floor"
    rounding: Rounding = "nearest_even"
    #: A second, per-tensor fp32 scale (NVFP4).
    global_scale: bool = False
    #: amax is raised to this before the scale rule.
    amax_floor: float = 0.0
    #: Smallest scale byte an E8M0 scale may get.
    minimum_byte: int = 0
    keep_negative_zero: bool = True
    #: Whether the last block along an axis may be short.
    ragged: bool = False
    nonfinite: Nonfinite = "error"
    #: Whether x is multiplied by the scale's reciprocal or divided by the scale: the
    #: same for power-of-two scales.
    reciprocal: bool = False

    def __post_init__(self) -> None:
        choose("BlockFormat", "scale_rule", self.scale_rule, get_args(ScaleRule))
        choose("BlockFormat", "rounding", self.rounding, get_args(Rounding))
        choose("BlockFormat", "nonfinite", self.nonfinite, get_args(Nonfinite))
        for size in self.block:
            at_least("BlockFormat", "block", size, 0)
