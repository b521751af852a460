"""The scale of each block, and what x meets to become codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle.blocks import nvfp4
from oracle.blocks.powers import NAN_BYTE, power_bytes, power_value
from oracle.blocks.whole import FP32_MAX, Whole, fp32
from oracle.formats import decode, encode, get, round_to
from oracle.spec import POWER_RULES, BlockFormat

_FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Scales:
    """Chosen scales.

    Shapes: stored [G, C] in the type that is kept; operand f64[G, C]
    """

    stored: torch.Tensor
    #: x is multiplied by this, or divided by it, to give what is encoded.
    operand: torch.Tensor


def is_power(format: BlockFormat) -> bool:
    """Whether scales are powers of two, so that scaling is exact."""
    return format.scale != "e4m3" and format.scale_rule in POWER_RULES


def multiplies(format: BlockFormat) -> bool:
    """Whether x is multiplied by the operand, not divided by it."""
    if format.scale == "e4m3":
        return nvfp4.multiplies(format)
    return is_power(format) or format.apply != "divide"


def needs_amax(format: BlockFormat) -> bool:
    """Whether x meets maximum / amax rather than the stored scale."""
    return (
        format.apply == "inverse" and format.scale in _FLOATS and not is_power(format)
    )


def choose_scales(
    amax: torch.Tensor, format: BlockFormat, whole: Whole | None = None
) -> Scales:
    """The scale that `format` gives to blocks of largest magnitude `amax`.

    Shapes: amax f64[G, C]; whole f64[G, 1]

    Blocks of zeros get `zero_scale` where it is set. Infinity is held to the range of
    the scale; NaN gives the NaN scale.
    """
    zero = amax == 0
    if not is_power(format):
        amax = amax.clamp(max=FP32_MAX)
    if format.amax_floor:
        least = fp32(amax.new_tensor(format.amax_floor))
        amax = torch.where(amax < least, least, amax)
    if format.scale == "e8m0":
        stored = power_bytes(amax, format).to(torch.uint8)
    elif format.scale == "e4m3":
        if whole is None:
            one = torch.ones_like(amax[:, :1])
            whole = Whole(one, one)
        stored = nvfp4.block_bytes(amax, whole, format)
    else:
        stored = _ratio(amax, format)
    if format.zero_scale is not None:
        stored = stored.masked_fill(zero, _stored_number(format.zero_scale, format))
    if needs_amax(format):
        operand = _inverse(amax, format).masked_fill(amax == 0, 0.0)
        return Scales(stored, operand)
    return Scales(stored, operand_of(stored, format, whole))


def operand_of(
    stored: torch.Tensor, format: BlockFormat, whole: Whole | None = None
) -> torch.Tensor:
    """What x meets under stored scales; a scale of zero makes every code zero.

    Not where x meets M / a (`needs_amax`), which the scale does not tell.
    """
    if format.scale == "e4m3":
        if whole is None:
            one = torch.ones_like(stored[:, :1], dtype=torch.float64)
            whole = Whole(one, one)
        return nvfp4.block_operand(stored, whole, format)
    value = scale_value(stored, format)
    if not multiplies(format):
        return value.masked_fill(value == 0, torch.inf)
    inverse = 1 / value if is_power(format) else fp32(1 / value).clamp(max=FP32_MAX)
    return inverse.masked_fill(value == 0, 0.0)


def scaled_by(
    x: torch.Tensor, operand: torch.Tensor, format: BlockFormat
) -> torch.Tensor:
    """What is encoded: x and its operand in one operation, in the type of x.

    A float64 x is rounded to fp32 after meeting a scale that is no power of two.
    """
    scaled = x * operand if multiplies(format) else x / operand
    if format.recipe == "torchao":  # zeros stay zeros under an infinite operand
        scaled = torch.where(x == 0, x, scaled)
    if format.recipe == "modelopt":  # the operand may vanish: 0 / 0 counts as infinity
        scaled = torch.where((x == 0) & (operand == 0), torch.inf, scaled)
    if x.dtype is torch.float64 and not is_power(format):
        return fp32(scaled)
    return scaled


def scale_value(stored: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    """What decoding multiplies by, without the global scale: f64.

    Raises TypeError for stored scales of a type that the format does not store.
    """
    stored_type = _FLOATS.get(format.scale, torch.uint8)
    if stored.dtype is not stored_type:
        raise TypeError(
            f"blocks: scales of {format.name} are {stored.dtype}; give {stored_type} "
            "(view one-byte floats as it)"
        )
    if format.scale == "e8m0":
        return power_value(stored)
    if format.scale == "e4m3":
        return decode(stored, "e4m3")
    return stored.to(torch.float64)


def nan_scale(format: BlockFormat) -> float:
    """The stored scale of a block that is not a number."""
    return {"e8m0": NAN_BYTE, "e4m3": 0x7F}.get(format.scale, torch.nan)


def _maximum(amax: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    """The number that amax is mapped onto, on amax's device."""
    return amax.new_tensor(format.maximum or get(format.element).maximum)


def _ratio(amax: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    """amax / maximum by the format's rule, in the type that scales are kept in."""
    if format.scale_rule in POWER_RULES:
        value = power_value(power_bytes(amax, format))
    elif format.scale_rule == "multiply":
        value = fp32(amax * fp32(1 / _maximum(amax, format)))
    elif format.scale_rule == "invert":
        value = fp32(1 / _inverse(amax, format))
    else:
        value = fp32(amax / _maximum(amax, format))
    held = round_to(value, format.scale, saturate=True)
    return held.to(_FLOATS[format.scale])


def _inverse(amax: torch.Tensor, format: BlockFormat) -> torch.Tensor:
    """maximum / amax in fp32, held to its range.

    ``invert`` rounds 1 / amax first, as torch does to divide a number by a tensor.
    """
    maximum = _maximum(amax, format)
    if format.scale_rule == "invert":
        return fp32(maximum * fp32(1 / amax)).clamp(max=FP32_MAX)
    return fp32(maximum / amax).clamp(max=FP32_MAX)


def _stored_number(value: float, format: BlockFormat) -> float:
    """`value` as scales of this format store it."""
    number = torch.tensor(value, dtype=torch.float64)
    if format.scale in _FLOATS:
        return float(round_to(number, format.scale))
    return int(encode(number, format.scale))
