"""Quantise a value that is known up to a radius: every admissible scale and code.

An interval of amax admits a run of scales: one mostly, two next to a power of two.
Under each of them the codes of both ends of an element's interval enclose its codes,
because rounding is monotone. The hull over all scales is what an implementation may
yield.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from oracle.blocks.grid import Grid
from oracle.blocks.presets import preset
from oracle.blocks.quantize import dequantize, quantize
from oracle.blocks.scales import (
    Scales,
    choose_scales,
    is_power,
    needs_amax,
    operand_of,
    scale_value,
    scaled_by,
)
from oracle.blocks.whole import Whole, global_scales, per_group
from oracle.formats import get, round_to
from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.trace import Tap

_LEAST = math.ldexp(1.0, -1074)


@dataclass(frozen=True, slots=True)
class Range:
    """Ends of every element, and of the scales that its block may get.

    Shapes, with B blocks of n elements: low, high f64[B, n]; all else [B, 1]
    """

    low: torch.Tensor
    high: torch.Tensor
    #: Scales of the least and of the greatest admissible amax above zero.
    least: Scales
    most: Scales
    #: Global scales of the least and of the greatest admissible amax of the tensor.
    wholes: tuple[Whole | None, Whole | None]
    #: Whether the block may be all zeros.
    may_vanish: torch.Tensor
    #: Relative error of what x meets, where that is no power of two.
    slack: float


def quantize_tap(
    tap: Tap,
    format: BlockFormat | str,
    *,
    axis: int = -1,
    global_scale: torch.Tensor | float | None = None,
    slack: float = 0.0,
) -> tuple[Blocks, Tap]:
    """The blocks of the tap's value, and the dequantised value with its bounds.

    Shapes: tap f64[..., N, K] -> blocks; tap f64[..., N, K]

    `worst` reaches as far as any implementation that quantises some value within the
    tap's `worst` by this format; it is 0 where neither scale nor code is ambiguous.
    `likely` is the same of the tap's `likely`. `slack` is the relative error that
    scales, and what x meets, may have besides: 2^-21, say, for a kernel whose division
    is off by two units in the last place. Other arguments and errors are those of
    `quantize`; ValueError unless 0 <= slack < 1.
    """
    if not 0 <= slack < 1:
        raise ValueError(f"quantize_tap: slack={slack} is no relative error below 1")
    format = preset(format) if isinstance(format, str) else format
    value = tap.value.to(torch.float64)
    blocks = quantize(value, format, axis=axis, global_scale=global_scale)
    centre = dequantize(blocks, axis=axis)
    grid = Grid.of(value.shape, format, axis)

    def reach(radius: torch.Tensor | None) -> torch.Tensor | None:
        if radius is None:
            return None
        if not slack and not bool(radius.any()):
            return torch.zeros_like(centre)
        span = range_of(value, radius, grid, format, global_scale, slack)
        low, high = (grid.join(grid.tiles(end)) for end in hull(span, format))
        far = torch.maximum(high - centre, centre - low)
        outward = torch.nextafter(far, far.new_tensor(math.inf))
        return torch.where(far > 0, outward, 0.0)

    exact = tap.worst is None and not slack
    worst = None if exact else reach(_radius(tap))
    return blocks, Tap(centre, worst, reach(tap.likely), tap.probability)


def range_of(
    value: torch.Tensor,
    radius: torch.Tensor,
    grid: Grid,
    format: BlockFormat,
    global_scale: torch.Tensor | float | None,
    slack: float = 0.0,
) -> Range:
    """Ends of elements, of amax and of scales for value +- radius."""
    centre, reach = grid.blocks(grid.cut(value)), grid.blocks(grid.cut(radius))
    infinity = centre.new_tensor(math.inf)
    reach = reach.masked_fill(reach.isnan(), math.inf)
    sure = reach == 0
    low = torch.where(sure, centre, torch.nextafter(centre - reach, -infinity))
    high = torch.where(sure, centre, torch.nextafter(centre + reach, infinity))
    # What is no number stays out of amax: its element, or its whole block.
    left_out = centre.isnan()
    if format.nonfinite == "propagate":
        left_out = (~centre.isfinite()).any(1, keepdim=True)
    low, high = (end.masked_fill(left_out, 0.0) for end in (low, high))
    largest = torch.maximum(low.abs(), high.abs()).amax(1, keepdim=True)
    nearest = torch.minimum(low.abs(), high.abs())
    nearest = nearest.masked_fill((low <= 0) & (high >= 0), 0.0)
    smallest = nearest.amax(1, keepdim=True)
    largest, smallest = largest * (1 + slack), smallest * (1 - slack)
    # Zeros have a rule of their own: what may vanish starts from the least number.
    start = smallest.masked_fill((smallest == 0) & (largest > 0), _LEAST)
    wholes: tuple[Whole | None, Whole | None] = (None, None)
    if format.global_scale:
        wholes = (
            _per_block(start, grid, format, global_scale),
            _per_block(largest, grid, format, global_scale),
        )
    return Range(
        low,
        high,
        choose_scales(start, format, wholes[1]),
        choose_scales(largest, format, wholes[0]),
        wholes,
        smallest == 0,
        slack,
    )


def hull(span: Range, format: BlockFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest dequantised value of each element, f64[B, n] each."""
    bottom = torch.full_like(span.low, math.inf)
    top = torch.full_like(span.high, -math.inf)
    for chosen, stored in candidates(span, format):
        low, high = element_ends(span, chosen, stored, format)
        for value in values_of(span, chosen, stored, format):
            bottom[chosen] = torch.minimum(bottom[chosen], low * value)
            top[chosen] = torch.maximum(top[chosen], high * value)
    return bottom, top


def candidates(
    span: Range, format: BlockFormat
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Blocks and the ends of the stored scales that they may get, run by run.

    Bytes and powers of two come one by one, both ends in one; of any other scale the
    two ends of the interval come at once. A scale that underflows to zero comes on its
    own: every code under it is zero, not what the least scale above it gives.
    """
    first, last = span.least.stored, span.most.stored
    everything = torch.arange(len(first), device=first.device)
    if first.is_floating_point():
        nothing = (first == 0).nonzero()[:, 0]
        if len(nothing):
            yield nothing, [first[nothing]]
        first = first.clamp(min=get(format.scale).quantum)
        if not is_power(format):
            yield everything, [first, torch.maximum(first, last)]
            return
    yield everything, [first]
    previous = first
    while True:
        if first.is_floating_point():
            stored = previous * 2.0
        else:
            stored = torch.where(previous < last, previous + 1, previous)
        chosen = ((stored <= last) & (stored > previous)).nonzero()[:, 0]
        if not len(chosen):
            return
        yield chosen, [stored[chosen]]
        previous = stored


def element_ends(
    span: Range, chosen: torch.Tensor, stored: list[torch.Tensor], format: BlockFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and greatest element value of some blocks under their stored scales."""
    if needs_amax(format):
        operands = [span.least.operand[chosen], span.most.operand[chosen]]
    else:
        operands = [
            operand_of(scale, format, None if whole is None else whole.rows(chosen))
            for scale in stored
            for whole in dict.fromkeys(span.wholes)
        ]
    if span.slack and not is_power(format):
        ends = (1 - span.slack, 1 + span.slack)
        operands = [operand * end for operand in operands for end in ends]
    low = [scaled_by(span.low[chosen], operand, format) for operand in operands]
    high = [scaled_by(span.high[chosen], operand, format) for operand in operands]
    return (
        _rounded(torch.stack(low).amin(0), format),
        _rounded(torch.stack(high).amax(0), format),
    )


def values_of(
    span: Range, chosen: torch.Tensor, stored: list[torch.Tensor], format: BlockFormat
) -> list[torch.Tensor]:
    """What decoding may multiply by: scales times global scales."""
    values = [scale_value(scale, format) for scale in stored]
    wholes = [whole for whole in dict.fromkeys(span.wholes) if whole is not None]
    if not wholes:
        return values
    return [value * whole.decode[chosen] for value in values for whole in wholes]


def _radius(tap: Tap) -> torch.Tensor:
    """The tap's worst radius, zeros where it is exact."""
    if tap.worst is None:
        return torch.zeros_like(tap.value, dtype=torch.float64)
    return tap.worst


def _rounded(scaled: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    return round_to(scaled, format.element, rounding=format.rounding, saturate=True)


def _per_block(
    amax: torch.Tensor,
    grid: Grid,
    format: BlockFormat,
    given: torch.Tensor | float | None,
) -> Whole:
    """The global scale of each block's tensor, [B, 1], for amax [B, 1]."""
    across = grid.counts[1]
    amax = amax.reshape(-1, across)
    whole = per_group(global_scales(amax, grid, format, given), grid)
    assert whole is not None
    return Whole(
        whole.encode.repeat_interleave(across, 0),
        whole.decode.repeat_interleave(across, 0),
    )
