"""Values around and below the least normal one: operands, products, sums."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.params import Weight
from oracle.spec import BlockFormat
from refmoe.generator import power_of_two
from refmoe.regimes import randn
from refmoe.regimes.regime import Source, plain

#: Exponents of rows: subnormal, least normal, and the root of those.
_EXPONENTS = (-130, -127, -125, -62)
_ROOT = -62


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Normal times 2^e, one of four e a row."""
    stream = source.stream(name)
    exponents = stream.substream("exponents").choose((rows, 1), _EXPONENTS)
    return stream.normal((rows, columns)) * power_of_two(exponents.long())


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Ordinary and, in every other row of a plain weight, times 2^-62."""
    drawn = randn.weight(source, name, shape, form)
    if not isinstance(drawn, torch.Tensor) or not isinstance(form, str):
        return drawn
    odd = torch.arange(shape[-2])[:, None] % 2
    return plain(drawn.double() * power_of_two(_ROOT * odd), form)


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Gates of order four and ups as above, or the other way round."""
    layer, stream = source.layer, source.stream("gate_up")
    values = tokens(source, "gate_up", rows, layer.gate_up_rows)
    usual = stream.substream("usual").normal(values.shape) * 4.0
    place = torch.arange(rows)[:, None] % 2 == 0
    gate = torch.arange(layer.gate_up_rows) < layer.intermediate
    return torch.where(place == gate, usual, values)


REGIME = replace(
    randn.REGIME,
    name="subnormal",
    about="operands, products and sums around and below the least normal number",
    bug="subnormal numbers flushed to zero by an input, a product or a store",
    tokens=tokens,
    weight=weight,
    gate_up=gate_up,
    suits=(
        "quantize", "grouped_gemm", "activate", "combine", "omni_route",
        "omni_route_backward",
    ),
)  # fmt: skip
