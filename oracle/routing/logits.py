"""The logits as the router sees them, and sums with a bias."""

from __future__ import annotations

import torch

from oracle import bounds
from oracle.routing.scores import Arithmetic, with_radius
from oracle.spec import Routing
from oracle.trace import Tap


def transformed(
    logits: torch.Tensor,
    routing: Routing,
    bias: torch.Tensor | None,
    arithmetic: Arithmetic,
) -> Tap:
    """The logits after scale, softcap and a logits bias, f64[T, columns]."""
    numerics = arithmetic.numerics
    tap = bounds.rounded(bounds.exactly(logits), numerics.logits, numerics)
    if numerics.subnormals == "flush":
        size = tap.value.abs()
        tap = with_radius(tap, torch.where(size < 2.0**-126, size, 0.0))
    if routing.logits_scale != 1.0:
        tap = arithmetic.multiply(tap, arithmetic.constant(routing.logits_scale, tap))
    if routing.softcap is not None:
        inner = arithmetic.multiply(
            tap, arithmetic.constant(1.0 / routing.softcap, tap)
        )
        capped = arithmetic.tanh(inner)
        tap = arithmetic.multiply(capped, arithmetic.constant(routing.softcap, tap))
    if bias is not None and routing.bias == "logits":
        # It belongs to the linear layer that made the logits: one type for both.
        tap = plus_bias(tap, bias, arithmetic.type, arithmetic)
    return tap


def plus_bias(tap: Tap, bias: torch.Tensor, type: str, arithmetic: Arithmetic) -> Tap:
    """tap + bias as a sum in `type`, to which the bias may be rounded first.

    A bias shorter than the rows leaves the last columns (shared experts) alone.
    """
    own = bias.to(tap.value.device, torch.float64)
    missing = tap.value.shape[-1] - len(own)
    if missing:
        own = torch.cat([own, own.new_zeros(missing)])
    term = bounds.inexact(bounds.exactly(own), type, arithmetic.numerics)
    total = bounds.add(tap, term, "none", arithmetic.numerics)
    return arithmetic.summed(total, type)


def wider(type: str, dtype: torch.dtype) -> str:
    """The type a sum of `type` and a tensor of `dtype` is added in.

    >>> wider("bf16", torch.float32), wider("bf16", torch.float16)
    ('fp32', 'fp32')
    """
    other = {torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(
        dtype, "fp32"
    )
    if type == other:
        return type
    return "fp64" if "fp64" in (type, other) else "fp32"
