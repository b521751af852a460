"""Mistakes of quantising: scales, rounding of codes, what bytes mean."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor
from refmoe.gallery.plain.elements import largest

mistake = decorator("mistake", group="quantisation")


# ---- scales of what is quantised


@mistake(
    "power", reference="vllm#43557, FlyDSL#590", shows="amax with a small significand"
)
def scale_from_the_quotient(stage: Stage, amax: Tensor, form: BlockFormat) -> Tensor:
    """The exponent of amax / 6 instead of that of amax, less 2."""
    return stage(amax / largest(form), replace(form, maximum=1.0))


@mistake("power", reference="vllm#43557", shows="any case")
def scale_one_step_high(stage: Stage, amax: Tensor, form: BlockFormat) -> Tensor:
    """The exponent's bias is 126."""
    return stage(amax, form) + 1


@mistake("power", reference="FlyDSL#590", shows="amax with a large significand")
def scale_rounded_up(stage: Stage, amax: Tensor, form: BlockFormat) -> Tensor:
    """The least scale that covers amax, though the format says floor."""
    return stage(amax, replace(form, scale_rule="rceil"))


@mistake("peak", shows="a block with a negative extreme")
def amax_without_sign(stage: Stage, tiles: Tensor) -> Tensor:
    """The largest element counts, not the largest magnitude."""
    return stage(tiles.clamp(min=0.0))


@mistake("peak", shows="any case")
def amax_of_half_a_block(stage: Stage, tiles: Tensor) -> Tensor:
    """Half of the lanes do not take part in the reduction."""
    return stage(tiles[..., : tiles.shape[-1] // 2])


@mistake("quantize", formats=("nvfp4",), shows="a global scale")
def global_scale_ignored(
    stage: Stage, x: Tensor, format: BlockFormat, global_scale: Tensor | None = None
) -> Blocks:
    """Block scales are computed without the scale of the tensor."""
    one = torch.ones(x.shape[:-2]) if format.global_scale else global_scale
    return stage.blocks(x, format, one)


@mistake("encode", reference="flashinfer#5024, vllm#42601", shows="a block of zeros")
def zero_block_is_nan(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """0 / 0 in a block of zeros."""
    empty = (scaled == 0).all((-3, -1), keepdim=True).expand_as(scaled)
    return stage(scaled, form).masked_fill(empty, 0x7F if form.element != "e2m1" else 7)


@mistake("power", reference="flashinfer#2595", shows="a block of zeros")
def zero_block_has_a_nan_scale(stage: Stage, amax: Tensor, form: BlockFormat) -> Tensor:
    """The scale of a block of zeros is NaN, its codes are right."""
    return stage(amax, form).masked_fill(amax == 0, 128)


@mistake("peak", reference="flashinfer#2595", shows="amax below 1e-36")
def tiny_amax_overflows(stage: Stage, tiles: Tensor) -> Tensor:
    """The reciprocal of a tiny scale is infinite."""
    amax = stage(tiles)
    return amax.where((amax == 0) | (amax > 1.3e-36), torch.finfo(torch.float32).max)


# ---- codes


@mistake("encode", reference="aiter#974, aiter#2247", shows="values half way")
def ties_away(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """Half way between two codes, the larger is taken."""
    return stage(scaled, replace(form, rounding="half_away"))


@mistake("encode", shows="any case")
def truncated_codes(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """Codes are cut toward zero."""
    return stage(scaled, replace(form, rounding="toward_zero"))


@mistake("encode", reference="tt-metal#51971", shows="values just above half way")
def sticky_bits_dropped(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """One bit behind the code's last decides; what lies behind it is lost."""
    bits = {"e2m1": 1, "e2m3": 3, "e3m2": 2, "e4m3": 3, "e5m2": 2}.get(form.element, 6)
    fraction, exponent = torch.frexp(scaled.double())
    kept = (fraction * 2.0 ** (bits + 2)).trunc() * 2.0 ** -(bits + 2)
    return stage(torch.ldexp(kept, exponent), form)


@mistake("encode", reference="tt-metal#51975", shows="subnormal codes")
def subnormal_codes_coarse(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """Subnormal codes are rounded one bit too high."""
    least = {"e2m1": 1.0, "e4m3": 2.0**-6, "e5m2": 2.0**-14}.get(form.element, 0.0)
    step = {"e2m1": 1.0, "e4m3": 2.0**-8, "e5m2": 2.0**-15}.get(form.element, 1.0)
    coarse = (scaled / step).round() * step
    return stage(torch.where(scaled.abs() < least, coarse, scaled), form)


@mistake("encode", formats=("nvfp4",), shows="scales no power of two")
def rounded_twice(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """Scaled values pass through bf16 on their way to a code."""
    return stage(scaled.bfloat16().float(), form)


@mistake("encode", formats=("mxfp8_e4m3",), shows="amax above 448 scales")
def overflow_is_nan(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """Values past the largest code become NaN instead of saturating."""
    beyond = scaled.abs() > largest(form)
    return stage(scaled, form).masked_fill(beyond, 0x7F)


@mistake("encode", shows="small negative values")
def negative_zero_dropped(stage: Stage, scaled: Tensor, form: BlockFormat) -> Tensor:
    """Negative values that round to zero lose their sign."""
    return stage(scaled, replace(form, keep_negative_zero=False))


# ---- what bytes mean


def _scales(stored: Blocks, scales: Tensor) -> Blocks:
    return replace(stored, scales=scales)


@mistake("decode", reference="vllm#43557", shows="any case")
def decoded_one_step_low(stage: Stage, stored: Blocks) -> Tensor:
    """The exponent of a scale is its byte less 128."""
    if stored.format.scale != "e8m0":
        return stage(stored)
    return stage(stored) / 2


@mistake("decode", reference="sglang#25519", shows="a scale byte of 134")
def byte_134_is_nan(stage: Stage, stored: Blocks) -> Tensor:
    """A scale of 128 is taken for NaN."""
    if stored.format.scale != "e8m0":
        return stage(stored)
    return stage(_scales(stored, stored.scales.masked_fill(stored.scales == 134, 255)))


@mistake("decode", reference="sglang#25519", shows="a scale byte of 255")
def byte_255_is_infinite(stage: Stage, stored: Blocks) -> Tensor:
    """A NaN scale decodes as the next power of two, and is finite."""
    if stored.format.scale != "e8m0":
        return stage(stored)
    return stage(_scales(stored, stored.scales.clamp(max=254)))


@mistake("decode", shows="a scale byte of 0")
def byte_0_is_zero(stage: Stage, stored: Blocks) -> Tensor:
    """Shifting byte 0 into a float's exponent gives 0, not 2^-127."""
    if stored.format.scale != "e8m0":
        return stage(stored)
    columns = stored.format.block[1] or stored.codes.shape[-1]
    zero = (stored.scales == 0).repeat_interleave(columns, -1)
    return stage(stored).masked_fill(zero[..., : stored.codes.shape[-1]], 0.0)


@mistake("decode", op="experts", models=("gpt-oss-120b",), shows="scales below 2^-9")
def scales_through_e4m3(stage: Stage, stored: Blocks) -> Tensor:
    """E8M0 scales meet the unit as E4M3 ones, which end at 2^-9."""
    if stored.format.scale != "e8m0":
        return stage(stored)
    lost = (stored.scales < 127 - 9).repeat_interleave(stored.format.block[1], -1)
    return stage(stored).masked_fill(lost, 0.0)


@mistake(
    "decode", reference="transformers#47030, sglang#39193",
    formats=("fp8_block_128", "fp8_group_128"), shows="scales no power of two",
)  # fmt: skip
def scales_rounded_to_powers(stage: Stage, stored: Blocks) -> Tensor:
    """Scales become powers of two, the codes stay."""
    if not stored.scales.is_floating_point():
        return stage(stored)
    exponent = torch.frexp(stored.scales.float()).exponent
    power = torch.exp2(exponent.double()).to(stored.scales.dtype)
    return stage(_scales(stored, power))


@mistake("decode", formats=("nvfp4",), shows="a global scale")
def global_scale_not_applied(stage: Stage, stored: Blocks) -> Tensor:
    """The scale of the tensor is left out."""
    return stage(replace(stored, global_scale=None))


@mistake(
    "weight", models=("mixtral-8x7b",),
    shows="global scales that differ from expert to expert",
)  # fmt: skip
def global_scale_of_the_first_expert(
    stage: Stage, weights: object, expert: int
) -> Tensor:
    """One scale for the weights of all experts."""
    if isinstance(weights, Blocks) and weights.global_scale is not None:
        first = weights.global_scale[:1].expand_as(weights.global_scale)
        weights = replace(weights, global_scale=first)
    return stage(weights, expert)


@mistake(
    "decode", reference="TransformerEngine#3342", formats=("mxfp8_e5m2",),
    shows="E5M2 codes",
)  # fmt: skip
def e5m2_read_as_e4m3(stage: Stage, stored: Blocks) -> Tensor:
    """E5M2 codes are decoded as E4M3."""
    if stored.format.element != "e5m2":
        return stage(stored)
    return stage(replace(stored, format=replace(stored.format, element="e4m3")))


@mistake("decode", formats=("mxfp8_e4m3",), shows="any case")
def e4m3_of_the_other_kind(stage: Stage, stored: Blocks) -> Tensor:
    """E4M3 codes are decoded with the bias 8 of E4M3FNUZ."""
    value = stage(stored)
    return value / 2 if stored.format.element == "e4m3" else value


@mistake("decode", shows="any case")
def one_scale_off_by_one(stage: Stage, stored: Blocks) -> Tensor:
    """The very last scale is a step too large."""
    if stored.format.scale != "e8m0":
        return stage(stored)
    scales = stored.scales.clone()
    scales.reshape(-1)[-1:] += 1
    return stage(_scales(stored, scales))
