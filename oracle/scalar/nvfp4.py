"""NVFP4's two scales: the fp32 operations of each recipe, one Fraction at a time.

The global scale maps the tensor's amax onto 6 * 448, the E4M3 block scale the block's
onto 6. Source: arXiv 2509.25149, appendix B ("paper"); the other recipes are what
Transformer Engine, FlashInfer (vLLM too), torchao and Model Optimizer compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar.elements import Value, decode, encode, round_to
from oracle.scalar.scales import fp32, inverse, maximum_of

#: Recipes that keep a block scale away from zero.
LEAST = {"torchao": Fraction(1, 64), "modelopt": Fraction(1, 512)}


@dataclass(frozen=True, slots=True)
class Whole:
    """The global scale in both directions, two fp32 numbers."""

    encode: Fraction
    decode: Fraction


ONE = Whole(Fraction(1), Fraction(1))


def whole_of(amax: Fraction, format: Any) -> Whole:
    """From the tensor's amax; a tensor of zeros has 1 (``te``: the largest encode)."""
    top = maximum_of(format) * 448
    if format.recipe in LEAST:
        least = Fraction(1, 2**149)
        return given(max(fp32(amax / top), least) if amax else Fraction(1))
    if amax == 0 and format.recipe != "te":
        return ONE
    scale = inverse(amax, top)
    return Whole(scale, inverse(scale))


def given(scale: Fraction) -> Whole:
    """From the scale that decoding multiplies by."""
    return Whole(inverse(scale), scale)


def block_byte(amax: Fraction, whole: Whole, format: Any) -> int:
    """E4M3 byte of the block scale, nearest even, saturated to 448."""
    six = maximum_of(format)
    if format.recipe == "te":
        scale = fp32(amax * fp32(whole.encode * inverse(six)))
    elif format.recipe == "flashinfer":
        scale = fp32(whole.encode * fp32(amax * inverse(six)))
    elif format.recipe == "torchao":
        scale = inverse(whole.decode, fp32(amax / six))
    elif format.recipe == "modelopt":
        scale = inverse(fp32(six * whole.decode), amax)
    else:
        scale = fp32(fp32(amax / six) * whole.encode)
    return encode(max(scale, LEAST.get(format.recipe, scale)), "e4m3")


def quotient(x: Fraction, byte: int, whole: Whole, format: Any) -> Value:
    """x as its code is chosen from; a scale of zero gives 0 (``te``: the largest).

    Under ``torchao`` x may meet infinity, which leaves zeros alone, under ``modelopt``
    zero, which makes infinity of every x.
    """
    scale = Fraction(decode(byte, "e4m3"))
    if format.recipe == "torchao":
        operand = round_to(round_to(1 / whole.decode, "fp32") / scale, "fp32")
        return round_to(x * operand, "fp32") if x else x
    if scale == 0 and format.recipe != "te":
        return Fraction(0)
    if format.recipe == "modelopt":
        divisor = fp32(scale * whole.decode)
        return fp32(x / divisor) if divisor else math.copysign(math.inf, x)
    return fp32(x * inverse(fp32(scale * whole.decode)))
