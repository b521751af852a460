"""Scales of blocks in plain torch: float32 operations in the order of each recipe."""

from __future__ import annotations

import torch

from oracle.spec import BlockFormat
from refmoe.gallery.plain.arithmetic import Tensor
from refmoe.gallery.plain.elements import encode, fraction_bits, largest, values

STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST = torch.finfo(torch.float32).max
_LEAST_SCALE = {"torchao": 2.0**-6, "modelopt": 2.0**-9}
#: The encode and the decode scale of a whole tensor.
Whole = tuple[Tensor, Tensor]


def is_power(form: BlockFormat) -> bool:
    """Whether the scales are powers of two."""
    return form.scale_rule in ("floor", "ceil", "even", "rceil")


def power(amax: Tensor, form: BlockFormat) -> Tensor:
    """The exponent of each power-of-two scale, held to the range of E8M0."""
    fraction, exponent = torch.frexp(amax.double())
    top = torch.frexp(torch.tensor(largest(form), dtype=torch.float64))
    if form.scale_rule == "floor":
        up = torch.zeros_like(fraction, dtype=torch.bool)
    elif form.scale_rule == "ceil":
        up = fraction > 0.5
    elif form.scale_rule == "rceil":
        up = fraction > top.mantissa
    else:
        up = fraction >= 1.0 - 2.0 ** -(fraction_bits(form.element) + 2)
    exponent = exponent - top.exponent + up
    exponent = torch.where(amax == 0, -127, exponent)
    return exponent.clamp(form.minimum_byte - 127, 127)


def given_scale(decode: Tensor) -> Whole:
    """Both scales of a tensor from the one that decodes."""
    return (1 / decode).clamp(max=_LARGEST), decode


def whole_scale(amax: Tensor, form: BlockFormat) -> Whole:
    """encode and decode scale of a tensor, from its amax."""
    top = torch.tensor(largest(form) * 448.0)
    if form.recipe in ("torchao", "modelopt"):
        decode = (amax / top).float().clamp(min=2.0**-149)
        decode = torch.where(amax == 0, 1.0, decode)
        return given_scale(decode)
    encode_scale = (top / amax).float().clamp(max=_LARGEST)
    if form.recipe != "te":
        encode_scale = torch.where(amax == 0, 1.0, encode_scale)
    return encode_scale, 1 / encode_scale


def nvfp4_scale(amax: Tensor, whole: Whole, form: BlockFormat) -> Tensor:
    """E4M3 codes of the block scales, each recipe in its own order of operations."""
    up, down = whole
    six = torch.tensor(largest(form))
    scale = {
        "paper": lambda: (amax / six).float() * up,
        "te": lambda: amax * (up * (1 / six)),
        "flashinfer": lambda: up * (amax * (1 / six)).float(),
        "torchao": lambda: (amax / six).float() / down,
        "modelopt": lambda: amax / (six * down),
    }[form.recipe]()
    scale = scale.float().clamp(min=_LEAST_SCALE.get(form.recipe, 0.0))
    return encode(
        scale, BlockFormat("scale", "e4m3", scale="fp32", scale_rule="divide")
    )


def ratio(amax: Tensor, form: BlockFormat) -> Tensor:
    """amax over the element's largest value, in float32."""
    top = torch.tensor(largest(form))
    scale = {
        "divide": lambda: amax / top,
        "multiply": lambda: amax * (1 / top),
        "invert": lambda: 1 / inverse(amax, form),
    }[form.scale_rule]()
    dtype = STORED[form.scale]
    scale = scale.float()
    return scale.clamp(max=torch.finfo(dtype).max).to(dtype)


def inverse(amax: Tensor, form: BlockFormat) -> Tensor:
    """The element's largest value over amax, each operation in float32."""
    top = torch.tensor(largest(form))
    if form.scale_rule == "invert":
        return (top * (1 / amax).float()).clamp(max=_LARGEST)
    return (top / amax).float().clamp(max=_LARGEST)


def stored_number(value: float, form: BlockFormat) -> Tensor:
    if form.scale == "e8m0":
        number = torch.tensor(value, dtype=torch.float64)
        return (torch.frexp(number).exponent + 126).to(torch.uint8)
    number = torch.tensor(value)
    if form.scale == "e4m3":
        return encode(number, BlockFormat("scale", "e4m3", scale="e8m0"))
    return number.to(STORED[form.scale])


def operand_of(
    stored: Tensor,
    amax: Tensor,
    whole: Whole | None,
    form: BlockFormat,
) -> Tensor:
    """What x is multiplied by, or where `divides`, divided by, before it is encoded."""
    if whole is not None:
        scale = values("e4m3")[stored.long()].float()
        if form.recipe == "torchao":
            return 1 / whole[1] / scale
        operand = scale * whole[1]
        if form.recipe == "modelopt":
            return operand
        operand = (1 / operand).clamp(max=_LARGEST)
        return operand if form.recipe == "te" else operand.where(scale > 0, 0.0)
    if is_power(form):
        value = scale_values(stored, form)
        return (1 / value).where(value > 0, 0.0)
    value = stored.float()
    if form.apply == "divide":
        return value.where(value > 0, torch.inf)
    if form.apply == "inverse":
        return inverse(amax, form).where(amax > 0, 0.0)
    return (1 / value).clamp(max=_LARGEST).where(value > 0, 0.0)


def divides(form: BlockFormat) -> bool:
    """Whether x is divided by its operand."""
    if form.scale == "e4m3":
        return form.recipe == "modelopt"
    return form.scale_rule == "divide" and form.apply == "divide"


def scale_values(stored: Tensor, form: BlockFormat) -> Tensor:
    """f64 of the stored scales: E8M0 and E4M3 bytes, or floats as they are."""
    if form.scale == "e8m0":
        return torch.exp2(stored.double() - 127).where(stored != 255, torch.nan)
    if form.scale == "e4m3":
        return values("e4m3")[stored.long()]
    return stored.double()
