"""Mistakes of operands: the scales, rows and weights they meet, products kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain import scales
from refmoe.gallery.plain.arithmetic import Tensor
from refmoe.gallery.plain.elements import largest

mistake = decorator("mistake")


@mistake(
    "scaling", group="quantisation", formats=("nvfp4",),
    shows="a scale that rounding moves past a tie of a code",
)  # fmt: skip
def scale_met_before_it_is_rounded(
    stage: Stage, amax: Tensor, format: BlockFormat, global_scale: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes are made with the exact scale, and the rounded one is stored."""
    stored, operand, whole = stage.honest(amax, format, global_scale)
    exact = amax / largest(format)
    exact = exact if scales.divides(format) else 1.0 / exact
    usual = (amax > 0) & exact.isfinite()
    return stored, torch.where(usual, exact, operand), whole


@mistake(
    "grouped_quantize", group="quantisation", formats=("nvfp4",),
    shows="experts whose rows have other extremes",
)  # fmt: skip
def global_scale_of_all_experts(
    stage: Stage, x: Tensor, offsets: Tensor, format: BlockFormat
) -> Blocks:
    """One global scale spans the rows of all experts."""
    if not format.global_scale:
        return stage.blocks(x, offsets, format)
    whole = stage.port.quantize(x[: int(offsets[-1])], format).global_scale
    assert whole is not None
    blocks = stage.port.quantize(x, format, whole)
    return replace(blocks, global_scale=whole.repeat(len(offsets) - 1))


@mistake(
    "seen", op="experts", group="dispatch", models=("deepseek-v3",),
    shows="quantised activations",
)  # fmt: skip
def activations_stay_wide(
    stage: Stage, x: Tensor, format: str | BlockFormat, scale: Tensor | None
) -> Tensor:
    """The path for 16-bit activations is taken where quantised ones are asked for."""
    return stage.port.plain(x)


@mistake("unpacked", group="state", shows="two experts")
def unpacked_once_for_a_shape(stage: Stage, weight: Any) -> Tensor:
    """Unpacked weights are kept by their shape: the first expert's serve all."""
    kept: Tensor = stage.memory.setdefault(tuple(weight.shape), stage(weight))
    return kept


@mistake("product", group="state", shows="two products of one shape")
def accumulator_not_cleared(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """A product is added to the one of its shape before it."""
    y = stage(x, weight)
    before = stage.memory.get(tuple(y.shape))
    stage.memory[tuple(y.shape)] = y
    return y if before is None else y + before
