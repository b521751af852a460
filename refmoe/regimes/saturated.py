"""Logits so far out that scores saturate, underflow or would overflow."""

from __future__ import annotations

from dataclasses import replace

import torch

from refmoe.regimes import randn
from refmoe.regimes.regime import Source

#: From here on a sigmoid is 1 in fp32; e^l overflows past 88.7, and e^-l with it.
_ONE, _OVERFLOW = 18.0, 100.0
#: Where e^l is far below an ulp of 1, and still far from underflow.
_TAIL, _LOW = -24.0, -60.0


def logits(source: Source) -> torch.Tensor:
    """By token: all in the tail below 0; several past 18; all near 100; all near -60.

    A softmax takes -100 instead of -60: less its maximum, it does not mind. One expert
    more than there are places lies past 18, so that few selections are possible.
    """
    layer = source.layer
    shape = (source.case.T, layer.logits_columns)
    stream = source.stream("logits")
    spread = stream.normal(shape)
    chosen = torch.zeros(shape, dtype=torch.float64).scatter(1, source.ids, 1.0)
    rival = stream.substream("rival").integers((shape[0], 1), 0, layer.experts - 1)
    high = chosen.scatter(1, rival, 1.0) * (_ONE + 2.0 * spread.abs())
    low = -_OVERFLOW if layer.routing.score == "softmax" else _LOW
    styles = (_TAIL + 4.0 * spread, high + spread, _OVERFLOW + spread, low + spread)
    token = torch.arange(shape[0])[:, None] % len(styles)
    values = torch.stack(styles).gather(0, token.expand(shape)[None])[0]
    return values / layer.routing.logits_scale


REGIME = replace(
    randn.REGIME,
    name="saturated",
    about="logits in the tails: scores of 0 and 1, exponentials past fp32",
    bug="softmax without its maximum, log(1 + x) for log1p, scores for logits as keys",
    logits=logits,
    suits=("route", "moe"),
)
