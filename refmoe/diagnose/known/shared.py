"""The expert that every token visits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from oracle.params import Blocks
from oracle.spec import Layer
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Hypothesis, Place

_OPS = ("moe",)


def _times(name: str, about: str, factor: Callable[[Layer], float]) -> Hypothesis:
    """The shared expert's output times a factor."""

    def altered(place: Place, tap: Tap) -> Tap:
        return tap.map(lambda t: t * factor(place.layer))

    return Hypothesis(name, about, alter={"shared": altered}, ops=_OPS)


def _own_activation(layer: Layer) -> Layer:
    if layer.shared is None:
        return layer
    return replace(layer, shared=replace(layer.shared, activation=None))


def _ungated(layer: Layer) -> Layer:
    if layer.shared is None or layer.shared.combine != "gated":
        return layer
    return replace(layer, shared=replace(layer.shared, combine="add"))


def _halves(weight: torch.Tensor | Blocks) -> torch.Tensor | Blocks:
    if isinstance(weight, Blocks):
        return replace(
            weight,
            codes=weight.codes.roll(weight.codes.shape[-2] // 2, -2),
            scales=weight.scales.roll(weight.scales.shape[-2] // 2, -2),
        )
    return weight.roll(weight.shape[-2] // 2, -2)


HYPOTHESES = (
    _times("shared_missing", "the shared expert is left out", lambda layer: 0.0),
    _times(
        "shared_twice",
        "the shared expert is added twice (by each of two ranks, say)",
        lambda layer: 2.0,
    ),
    _times(
        "shared_over_the_scale",
        "the shared expert is divided by the routed scale",
        lambda layer: 1.0 / layer.routing.scale,
    ),
    _times(
        "shared_times_the_scale",
        "the routed scale multiplies the shared expert too",
        lambda layer: layer.routing.scale,
    ),
    Hypothesis(
        "shared_activation",
        "the shared expert takes the routed experts' activation",
        changes.layer(_own_activation),
        ops=_OPS,
    ),
    Hypothesis(
        "shared_gate_and_up_swapped",
        "the shared expert's gate and up are taken for each other",
        changes.params("shared_gate_up")(_halves),
        ops=_OPS,
    ),
    Hypothesis(
        "shared_gate_missing",
        "the shared expert is added without its gate",
        changes.layer(_ungated),
        ops=_OPS,
    ),
)
