"""Logits so far out that scores saturate, underflow or would overflow."""

from __future__ import annotations

from dataclasses import replace

import torch

from refmoe.regimes import randn
from refmoe.regimes.regime import Source

#: From here on a sigmoid is 1 in fp32; past 88.7 e^l overflows, and e^-l with it.
_ONE, _OVERFLOW = 18.0, 100.0
#: Where e^l is far below an ulp of 1, and where it is still no subnormal number.
_TAIL, _LOW = -24.0, -60.0
#: Just short of an ulp of 1: a sum that truncates loses e^l, one that rounds does not.
_SHORT = -16.0


def logits(source: Source) -> torch.Tensor:
    """By token: all in the tail below 0; k + 1 past 18; all near 100; all near -60.

    A softmax takes -100 instead of -60: less its maximum, it does not mind. Logits lie
    half a unit apart, so that bf16 orders them and few selections are possible.

    A softmax over all, whose keys no bias moves, has a fifth style: one at 0, the rest
    of the chosen from -5 to -13, all others short of an ulp of their sum.
    """
    layer = source.layer
    shape = (source.case.T, layer.logits_columns)
    stream = source.stream("logits")
    chosen = torch.zeros(shape, dtype=torch.int64).scatter(1, source.ids, 1)
    order = stream.substream("order").permutations(*shape) - shape[1] * chosen
    rank = order.argsort(1).argsort(1).double()
    down = -rank / 2.0
    ahead = _ONE + (layer.top_k - rank) / 2.0
    several = torch.where(rank <= layer.top_k, ahead, stream.normal(shape))
    low = -_OVERFLOW if layer.routing.score == "softmax" else _LOW
    styles = [_TAIL + down, several, _OVERFLOW + down, low + down]
    if layer.routing.score == "softmax" and layer.routing.bias == "none":
        behind = -5.0 - rank * min(0.5, 8.0 / layer.top_k)
        ahead_of_rest = torch.where(rank == 0, 0.0, behind)
        styles.append(torch.where(rank < layer.top_k, ahead_of_rest, _SHORT))
    token = torch.arange(shape[0])
    return torch.stack(styles)[token % len(styles), token] / layer.routing.logits_scale


REGIME = replace(
    randn.REGIME,
    name="saturated",
    about="logits in the tails: scores of 0 and 1, exponentials past fp32",
    bug="softmax without its maximum or by sums that truncate, log(1 + x) for log1p, "
    "scores for logits as keys",
    logits=logits,
    suits=("route", "moe"),
)
