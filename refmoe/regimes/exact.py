"""The exact regime: operands for which any right kernel must be bit-equal.

Small integers and dyadic fractions make every partial sum exactly representable in any
order; the first column of x is 1 and gives each gate a large weight, so that sigmoid,
tanh and erf are saturated; chosen experts share one logit and the others lie so far
below that their exponentials vanish. Whether a tap of a given layer really is exact the
oracle decides; where shipped parameters prevent it, the bound stays.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.formats import encode
from oracle.params import Weight
from oracle.spec import BlockFormat
from refmoe.generator import power_of_two
from refmoe.regimes import randn
from refmoe.regimes.regime import Source, plain

#: exp(-_FAR) is zero in float64, and a sigmoid of it too.
_FAR = 8192.0
#: exp(0) is 1, and so is the sigmoid of 64.
_CHOSEN = {"softmax": 0.0, "identity": 1.0, "sigmoid": 64.0, "sqrtsoftplus": 64.0}
_GRID = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """-1, 0 and 1; the first column is 1, the switch of every gate."""
    values = source.stream(name).integers((rows, columns), -1, 1).double()
    values[:, :1] = 1.0
    return values


def logits(source: Source) -> torch.Tensor:
    """One logit for the chosen experts, another far below for the rest, after bias."""
    layer = source.layer
    chosen = _CHOSEN[layer.routing.score]
    # A table that chooses by token looks at no logits: they are all alike.
    others = chosen if layer.routing.method == "hash" else chosen - _FAR
    values = torch.full((source.case.T, layer.logits_columns), others)
    values = values.double().scatter(1, source.ids, chosen)
    values[:, layer.routed_choices :] = chosen
    if layer.routing.bias == "logits":
        values[:, : layer.routed_choices] -= router_bias(source)
    return values / layer.routing.logits_scale


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Halves up to 1.5, times 1/2, 1 or 2 per block; the switch of a gate is large."""
    stream = source.stream(name)
    values = stream.choose(shape, _GRID)
    gates = gate_rows(source, name, shape[-2])
    signs = stream.substream("switch").choose((*shape[:-2], gates), (-1.0, 1.0))
    if isinstance(form, str):
        values[..., :gates, 0] = signs * 2.0 ** (randn.half_bits(shape[-1]) + 5)
        return plain(values, form)
    rows, columns = (
        size or whole for size, whole in zip(form.block, shape[-2:], strict=True)
    )
    exponents = stream.substream("exponents").integers(
        randn.scale_shape(shape, form), -1, 1
    )
    if gates:
        # The block of the switch holds nothing else, where it spans one row.
        reach = randn.half_bits(shape[-1]) + 5
        values[..., :gates, 0] = signs * (1.0 if rows == 1 else 2.0**reach)
        if rows == 1:
            values[..., :gates, 1:columns] = 0.0
            exponents[..., :gates, 0] = reach
    codes = encode(values, form.element)
    return randn.blocks(source, name, codes, exponents, form, powers=True)


def gate_rows(source: Source, name: str, rows: int) -> int:
    """How many of the first rows of the weight `name` yield gates."""
    if name == "shared_gate":
        return rows
    if not name.endswith("gate_up"):
        return 0
    shared, activation = source.layer.shared, source.layer.activation
    if name.startswith("shared") and shared is not None:
        activation = shared.activation or activation
    return rows // 2 if activation.gated else 0


def bias(source: Source, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Whole numbers of order four."""
    return source.stream(name).integers(shape, -6, 6).double()


def router_bias(source: Source) -> torch.Tensor:
    """Eighths in (-1/2, 1/2): of both signs, too small to change the choice."""
    shape = (source.layer.routed_choices,)
    return source.stream("router_bias").integers(shape, -3, 3).double() / 8


def gate_up(source: Source, rows: int) -> torch.Tensor:
    """Gates of +-128 to +-254, even; ups whole numbers up to 12."""
    layer, stream = source.layer, source.stream("gate_up")
    shape = (rows, layer.intermediate)
    ups = stream.substream("up").integers(shape, -12, 12).double()
    if not layer.activation.gated:
        return ups
    sizes = stream.integers(shape, 64, 127).double() * 2.0
    signs = stream.substream("signs").choose(shape, (-1.0, 1.0))
    return torch.cat((sizes * signs, ups), 1)


def weights(source: Source) -> torch.Tensor:
    """Powers of two, so that no two slots of four weigh the same."""
    shape = (source.case.T, source.layer.top_k)
    slot = torch.arange(source.layer.top_k).expand(shape)
    shift = source.stream("weights").integers((source.case.T, 1), 0, 3)
    return power_of_two(-1 - (slot + shift) % 4)


def expert_scale(source: Source) -> torch.Tensor:
    """1/2, 1 or 2."""
    shape = (source.layer.routed_choices,)
    return source.stream("expert_scale").choose(shape, (0.5, 1.0, 2.0))


REGIME = replace(
    randn.REGIME,
    name="exact",
    about="every partial sum representable: a right kernel is bit-equal",
    bug="errors smaller than any bound: a last bit, a wrong rounding of a tie",
    tokens=tokens,
    logits=logits,
    weight=weight,
    bias=bias,
    router_bias=router_bias,
    gate_up=gate_up,
    weights=weights,
    expert_scale=expert_scale,
)
