"""Biases of the router that decide, of both signs, and no two with a short form."""

from __future__ import annotations

from dataclasses import replace

import torch

from refmoe.regimes import randn
from refmoe.regimes.regime import Source

_SIZE = 12.0


def logits(source: Source) -> torch.Tensor:
    """Normal over eight: scores so close that the biases order the experts."""
    return randn.logits(source) / 8.0


def router_bias(source: Source) -> torch.Tensor:
    """-12 or 12, by the seed both or one alone, and up to 1/4 more, 20 bits each."""
    stream = source.stream("router_bias")
    shape = (source.layer.routed_choices,)
    levels = ((-_SIZE, _SIZE), (-_SIZE,), (_SIZE,))[source.case.seed % 3]
    return stream.choose(shape, levels) + stream.substream("fine").dyadic(shape, 20) / 4


REGIME = replace(
    randn.REGIME,
    name="biased",
    about="router biases of 12, of both signs, that outweigh the scores",
    bug="biases rounded or read as another type, keys below zero",
    logits=logits,
    router_bias=router_bias,
    suits=("route",),
)
