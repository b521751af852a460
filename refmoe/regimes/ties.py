"""Tied keys: exactly, where a rule decides, and so nearly that bf16 ties them."""

from __future__ import annotations

from dataclasses import replace

import torch

from refmoe.regimes import randn
from refmoe.regimes.regime import Source

#: Distance of near ties: fp32 tells 1 + n / 512 apart, bf16 does not.
_NEAR = 2.0**-9
#: Levels of the logits: winners, those at the cut, the rest.
_TOP, _CUT, _REST = 2.0, 1.0, -1.0
#: Product keys of a side that stand out, where few do.
_FEW = 2


def logits(source: Source) -> torch.Tensor:
    """One or two places of each token are contested by three or four equal experts.

    Every third token has near ties there instead; where nothing but the router is
    computed, every other third has all logits alike. Zeros have both signs.
    """
    layer, shape = source.layer, (source.case.T, source.layer.logits_columns)
    stream = source.stream("logits")
    values = torch.full(shape, _REST, dtype=torch.float64)
    contested = stream.integers((shape[0], 1), 1, min(2, layer.top_k))
    place = torch.arange(layer.top_k).expand(shape[0], -1)
    level = torch.where(place < layer.top_k - contested, _TOP, _CUT)
    values = values.scatter(1, source.ids, level.double())
    order = stream.substream("rivals").permutations(*shape)
    rivals = (order < 2) & (values == _REST)
    rivals[:, layer.routed_choices :] = False
    values = values.masked_fill(rivals, _CUT)
    token = torch.arange(shape[0])[:, None]
    near = stream.substream("near").permutations(*shape).double() * _NEAR
    values = torch.where((token % 3 == 1) & (values == _CUT), _CUT + near, values)
    if source.case.op == "route":
        # A layer's output could be that of too many selections.
        signs = stream.substream("signs").choose(shape, (-1.0, 1.0))
        values = torch.where(token % 3 == 2, 0.0 * signs, values)
    return values / layer.routing.logits_scale


def router_bias(source: Source) -> torch.Tensor:
    """Halves, so that experts with equal logits often have equal keys."""
    shape = (source.layer.routed_choices,)
    return source.stream("router_bias").choose(shape, (-0.5, 0.0, 0.0, 0.5))


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """Product keys from few values; their sums differ where bf16 does not see it.

    Every other token has two ones among zeros on either side instead: equal sums have
    unlike parts there, and the one with the larger key often has the larger id.
    """
    if not name.startswith("logits_"):
        return randn.tokens(source, name, rows, columns)
    stream = source.stream(name)
    whole = stream.integers((rows, columns), -1, 1).double()
    whole = whole * (1.0 if name == "logits_x" else 2.0**-10)
    few = (stream.substream("few").permutations(rows, columns) < _FEW).double()
    return torch.where(torch.arange(rows)[:, None] % 2 == 1, few, whole)


REGIME = replace(
    randn.REGIME,
    name="ties",
    about="experts with equal keys at the cut, and nearly equal ones",
    bug="tie rules of top-k; keys compared in a narrower type",
    logits=logits,
    router_bias=router_bias,
    tokens=tokens,
    suits=("route", "omni_route", "moe"),
)
