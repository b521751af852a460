"""Mistakes of routing: where weights and the routed scale are applied."""

from __future__ import annotations

from dataclasses import replace

from oracle.params import Params
from oracle.spec import Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="routing")


@mistake("routed", reference="sglang#7889, vllm#43694", shows="weights on the output")
def weight_on_the_input(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The routing weight multiplies x, through the activation."""
    moved = replace(layer, weight_on="input")
    return stage(x, ids, weights, params, moved, taps)


@mistake(
    "routed", reference="transformers#40609, sglang#6274", models=("llama-4-scout",),
    shows="weights on the input",
)  # fmt: skip
def weight_on_the_output(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The routing weight multiplies the experts' output, not their input."""
    moved = replace(layer, weight_on="output")
    return stage(x, ids, weights, params, moved, taps)


@mistake(
    "routed", reference="vllm#43694", models=("llama-4-scout",),
    shows="weights on the input",
)  # fmt: skip
def weight_on_both_sides(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The routing weight of a single choice multiplies input and output."""
    return stage(x, ids, weights, params, layer, taps) * weights[:, :1]


@mistake(
    "rescale_sum", reference="sglang#8511", models=("minimax-m3",),
    shows="a scale on the routed sum",
)  # fmt: skip
def scale_missing_on_the_sum(stage: Stage, total: Tensor, scale: float) -> Tensor:
    """Neither layer applies the routed scale, each leaves it to the other."""
    return total
