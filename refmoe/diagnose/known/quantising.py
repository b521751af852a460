"""How values became codes and scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from oracle.blocks import dequantize, quantize
from oracle.formats import encode, get, round_to
from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Alteration, Hypothesis, Place

_OPS = ("quantize", "grouped_quantize")


def _form(name: str, about: str, **fields: Any) -> Hypothesis:
    """Another field of the format, where the format stays a valid one."""
    change = changes.form(lambda own: replace(own, **fields))
    return Hypothesis(name, about, change, ops=_OPS)


def _recoded(
    name: str,
    about: str,
    found: Callable[[torch.Tensor, BlockFormat], Blocks | None],
) -> Hypothesis:
    """Other bytes, made of x and the format."""

    def altered(part: str) -> Alteration:
        def change(place: Place, tap: Tap) -> Tap:
            form = place.inputs["format"]
            if form.global_scale and "offsets" in place.inputs:
                return tap
            blocks = found(place.inputs["x"], form)
            return tap if blocks is None else Tap(getattr(blocks, part))

        return change

    alter = {part: altered(part) for part in ("codes", "scales", "global_scale")}
    return Hypothesis(name, about, None, alter, _OPS)


def _with_scales(x: torch.Tensor, own: Blocks, scaled: Any = None) -> Blocks:
    """x in codes under the scales of `own`; `scaled` changes what is encoded."""
    form = own.format
    one = encode(torch.ones(own.codes.shape, dtype=torch.float64), form.element)
    size = dequantize(replace(own, codes=one.to(own.codes.dtype)))
    x = x.double()
    # A scale of 0 leaves zeros with their sign.
    value = torch.where(size == 0, x * 0.0, x / size)
    value = value if scaled is None else scaled(value)
    codes = encode(value, form.element, rounding=form.rounding, saturate=True)
    return replace(own, codes=codes)


def _from(
    other: Callable[[torch.Tensor, BlockFormat], torch.Tensor],
) -> Callable[[torch.Tensor, BlockFormat], Blocks | None]:
    """Codes under the scales that another x would have got."""
    return lambda x, form: _with_scales(x, quantize(other(x, form), form))


def _stepped(step: int) -> Callable[[torch.Tensor, BlockFormat], Blocks | None]:
    def found(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
        own = quantize(x, form)
        if form.scale != "e8m0":
            return None
        scales = (own.scales.long() + step).clamp(0, 254).to(own.scales.dtype)
        return _with_scales(x, replace(own, scales=scales))

    return found


def _least_normal(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
    """Codes as if the least scale were 2^-126: what a flushed 2^-127 is raised to."""
    own = quantize(x, form)
    if form.scale != "e8m0":
        return None
    raised = replace(own, scales=own.scales.clamp(min=1))
    return replace(own, codes=_with_scales(x, raised).codes)


def _half_block(x: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    width = form.block[1] or x.shape[-1]
    lane = torch.arange(x.shape[-1]) % width
    return torch.where(lane < width // 2, x, 0.0)


def _tiny_raised(x: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    """x with the largest float in every block whose amax has no finite reciprocal."""
    width = form.block[1] or x.shape[-1]
    if x.shape[-1] % width or form.block[0] > 1:
        raise ValueError("blocks of one row and full width only")
    amax = x.double().abs().reshape(*x.shape[:-1], -1, width).amax(-1)
    top = torch.finfo(torch.float32).max
    tiny = ((amax > 0) & (amax < 2.0**-126 * 128)).repeat_interleave(width, -1)
    return x.double().masked_fill(tiny, top)


def _quotient(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
    if form.scale != "e8m0":
        return None
    largest = form.maximum or get(form.element).maximum
    own = quantize(x.double() / largest, replace(form, maximum=1.0))
    return _with_scales(x, replace(own, format=form))


def _sticky(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
    kept = get(form.element).mantissa + 2

    def cut(value: torch.Tensor) -> torch.Tensor:
        fraction, exponent = torch.frexp(value)
        return torch.ldexp((fraction * 2.0**kept).trunc() * 2.0**-kept, exponent)

    return _with_scales(x, quantize(x, form), cut)


def _through_bf16(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
    return _with_scales(x, quantize(x, form), lambda value: round_to(value, "bf16"))


def _coarse(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
    entry = get(form.element)
    step = 2.0 ** (entry.minimum_exponent - entry.mantissa + 1)

    def rounded(value: torch.Tensor) -> torch.Tensor:
        small = value.abs() < entry.least_normal
        return torch.where(small, (value / step).round() * step, value)

    return _with_scales(x, quantize(x, form), rounded)


def _without_global(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
    if not form.global_scale:
        return None
    return quantize(x, form, global_scale=torch.ones(x.shape[:-2]))


def _nan_codes(beyond: bool) -> Callable[[torch.Tensor, BlockFormat], Blocks | None]:
    """The highest code for what overflows, or for blocks of zeros."""

    def found(x: torch.Tensor, form: BlockFormat) -> Blocks | None:
        own = quantize(x, form)
        width = form.block[1] or x.shape[-1]
        top = 7 if form.element == "e2m1" else 0x7F
        if beyond:
            seen: list[torch.Tensor] = []
            _with_scales(x, own, lambda value: seen.append(value) or value)  # type: ignore[func-returns-value]
            mask = seen[0].abs() > get(form.element).maximum
        else:
            if form.block[0] > 1 or x.shape[-1] % width:
                return None
            empty = (x.reshape(*x.shape[:-1], -1, width) == 0).all(-1)
            mask = empty.repeat_interleave(width, -1)
        return replace(own, codes=own.codes.masked_fill(mask, top))

    return found


HYPOTHESES = (
    *(
        _form(f"scale_rule_{rule}", f"the scale rule is {rule}", scale_rule=rule)
        for rule in ("ceil", "even", "rceil", "floor", "divide", "multiply")
    ),
    *(
        _form(f"codes_{rule}", f"codes are rounded {words}", rounding=rule)
        for rule, words in (
            ("half_away", "half away from zero"),
            ("toward_zero", "toward zero"),
            ("half_toward_zero", "half toward zero"),
            ("nearest_even", "half to even"),
        )
    ),
    _recoded("scale_step_high", "scales are a step too large", _stepped(1)),
    _recoded("scale_step_low", "scales are a step too small", _stepped(-1)),
    _recoded(
        "byte_0_divides_as_1",
        "under the scale byte 0 values are divided by 2^-126, not 2^-127",
        _least_normal,
    ),
    _recoded(
        "scale_of_the_quotient",
        "the scale is the power of two of amax over the largest code",
        _quotient,
    ),
    _recoded(
        "amax_without_sign",
        "the largest element decides, not the largest magnitude",
        _from(lambda x, form: x.clamp(min=0.0)),
    ),
    _recoded(
        "tiny_amax_overflows",
        "the reciprocal of a tiny amax is infinite",
        _from(_tiny_raised),
    ),
    _recoded(
        "thresholds_above",
        "an amax on a threshold, a power of two say, gets the scale below it",
        _from(lambda x, form: x.double() * (1.0 - 2.0**-40)),
    ),
    _recoded(
        "thresholds_below",
        "an amax just below a threshold gets the scale above it (log2 in fp32, say)",
        _from(lambda x, form: x.double() * (1.0 + 2.0**-22)),
    ),
    _recoded(
        "amax_of_half_a_block",
        "half of the block decides its scale",
        _from(_half_block),
    ),
    _recoded(
        "no_tensor_scale",
        "block scales ignore the scale of the tensor",
        _without_global,
    ),
    _recoded(
        "double_rounding", "values pass through bf16 before a code", _through_bf16
    ),
    _recoded("sticky_bits_dropped", "what lies behind the round bit is lost", _sticky),
    _recoded(
        "coarse_subnormals", "subnormal codes are rounded a bit too high", _coarse
    ),
    _recoded(
        "overflow_is_nan", "values past the largest code become NaN", _nan_codes(True)
    ),
    _recoded("zero_block_is_nan", "a block of zeros becomes NaN", _nan_codes(False)),
    _form(
        "negative_zero_dropped",
        "negative values that round to zero lose their sign",
        keep_negative_zero=False,
    ),
    _form(
        "negative_zero_kept",
        "negative values that round to zero keep their sign",
        keep_negative_zero=True,
    ),
    _form("zero_block_is_one", "a block of zeros gets the scale 1", zero_scale=1.0),
    _form("reciprocal", "values are multiplied by 1 / scale", apply="reciprocal"),
    _form("division", "values are divided by the scale", apply="divide"),
)
