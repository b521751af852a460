"""Block formats: codes that share a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from oracle.spec.checks import at_least, choose

ScaleRule = Literal["floor", "ceil", "even", "rceil", "divide", "multiply", "invert"]
#: The rules that give a power of two; the others round amax / maximum in fp32.
POWER_RULES = ("floor", "ceil", "even", "rceil")
ScaleType = Literal["e8m0", "e4m3", "fp32", "bf16", "fp16"]
Apply = Literal["divide", "reciprocal", "inverse"]
Recipe = Literal["paper", "te", "flashinfer", "torchao", "modelopt"]
Rounding = Literal["nearest_even", "half_away", "half_toward_zero", "toward_zero"]
Nonfinite = Literal["error", "propagate", "saturate"]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Codes with a scale per block: MXFP4, NVFP4, block FP8, INT8 per token ...

    `block` is (rows, columns) over the last two axes, columns along the reduction axis;
    0 stands for the whole axis. value = decode(code) * decode(scale) [* global scale].
    With a = amax of the block and M = `maximum`, the scale is a power of two (see
    `oracle.blocks.powers`), or in fp32 arithmetic ``divide``: a / M, ``multiply``:
    a * (1 / M), ``invert``: 1 / (M * (1 / a)). Presets with their sources are in
    `oracle.blocks.presets`.
    """

    name: str
    element: str
    block: tuple[int, int] = (1, 32)
    scale: ScaleType = "e8m0"
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
    #: How x meets a scale s that is no power of two: x / s, x * (1 / s), or
    #: x * (M / a), whatever s was stored (under ``invert`` x * (M * (1 / a))).
    apply: Apply = "divide"
    #: What amax is mapped onto; None: the largest value of the element.
    maximum: float | None = None
    #: The scale of an all-zero block; None: what the rule makes of amax = amax_floor.
    zero_scale: float | None = None
    #: The order of the fp32 operations around an E4M3 scale (`oracle.blocks.nvfp4`).
    recipe: Recipe = "paper"

    def __post_init__(self) -> None:
        choose("BlockFormat", "scale", self.scale, get_args(ScaleType))
        choose("BlockFormat", "apply", self.apply, get_args(Apply))
        choose("BlockFormat", "recipe", self.recipe, get_args(Recipe))
        choose("BlockFormat", "scale_rule", self.scale_rule, get_args(ScaleRule))
        choose("BlockFormat", "rounding", self.rounding, get_args(Rounding))
        choose("BlockFormat", "nonfinite", self.nonfinite, get_args(Nonfinite))
        for size in self.block:
            at_least("BlockFormat", "block", size, 0)
        at_least("BlockFormat", "minimum_byte", self.minimum_byte, 0)
        if self.minimum_byte > 254:
            raise ValueError(
                f"BlockFormat: minimum_byte={self.minimum_byte} leaves no E8M0 scale; "
                "give at most 254"
            )
        for name in ("amax_floor", "zero_scale"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(
                    f"BlockFormat: {name}={value} must be finite and at least 0"
                )
        if self.maximum is not None and not 0 < self.maximum < math.inf:
            raise ValueError(
                f"BlockFormat: maximum={self.maximum} must be finite and above 0"
            )
        if self.scale == "e8m0" and self.scale_rule not in POWER_RULES:
            raise ValueError(
                f"BlockFormat: scale_rule={self.scale_rule!r} gives no power of two; "
                f"an e8m0 scale takes one of {', '.join(POWER_RULES)}"
            )
        if self.global_scale and self.scale != "e4m3":
            raise ValueError(
                f"BlockFormat: global_scale goes with e4m3 block scales, not "
                f"{self.scale}; use scale='e4m3' or drop it"
            )
