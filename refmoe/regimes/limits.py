"""Gates and ups around the activation's limit and far beyond it."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.formats import decode, encode
from oracle.params import Blocks, Weight
from oracle.spec import BlockFormat
from refmoe.regimes import randn
from refmoe.regimes.exact import gate_rows
from refmoe.regimes.regime import Source

_STEP = 2.0**-7
_TIMES = (1.0 - _STEP, 1.0, 1.0 + _STEP, 1.5, 2.0, 4.0, 16.0)


def limit(source: Source) -> float:
    """The layer's limit; 1 where it has none."""
    return source.layer.activation.limit or 1.0


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Multiples of the limit; in every other row all gates lie beyond one side."""
    layer, stream = source.layer, source.stream("gate_up")
    shape = (rows, layer.gate_up_rows)
    values = stream.choose(shape, _TIMES)
    signs = stream.substream("signs").choose(shape, (-1.0, 1.0))
    if layer.activation.gated:
        one_sided = torch.arange(rows)[:, None] // 2 % 2 == 0
        gates = values[:, : layer.intermediate]
        beyond = gates.clamp_min(1.0 + _STEP) * _sides(rows)
        signed = gates * signs[:, : layer.intermediate]
        values[:, : layer.intermediate] = torch.where(one_sided, beyond, signed)
        signs[:, : layer.intermediate] = 1.0
    return values * signs * limit(source)


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Elements of one sign in a row, of the size of the limit."""
    values = source.stream(name).normal((rows, columns)).abs() * limit(source)
    return values * _sides(rows)


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Ordinary, but no element of a gate's row is negative."""
    drawn = randn.weight(source, name, shape, form)
    gates = gate_rows(source, name, shape[-2])
    if isinstance(drawn, Blocks):
        codes = drawn.codes.clone()
        sizes = decode(codes[..., :gates, :], drawn.format.element).abs()
        codes[..., :gates, :] = encode(sizes, drawn.format.element)
        return replace(drawn, codes=codes)
    assert isinstance(drawn, torch.Tensor)
    return torch.cat([drawn[..., :gates, :].abs(), drawn[..., gates:, :]], -2)


def bias(source: Source, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Less than half the limit before the activation; none behind it, to hide it."""
    drawn = source.stream(name).dyadic(shape) * limit(source) / 2
    return drawn if name == "gate_up_bias" else torch.zeros_like(drawn)


def _sides(rows: int) -> torch.Tensor:
    """f64[rows, 1]: -1 and 1 in turns."""
    return 1.0 - 2.0 * (torch.arange(rows)[:, None] % 2 == 0).double()


REGIME = replace(
    randn.REGIME,
    name="limits",
    about="gates and ups at the limit and far beyond, rows of gates on one side of 0",
    bug="a clamp on the wrong side, or on the wrong side of the curve",
    gate_up=gate_up,
    tokens=tokens,
    weight=weight,
    bias=bias,
    suits=("activate", "moe"),
)
