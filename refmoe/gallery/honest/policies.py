"""Honest choices of another kind: order of rows, ties, scales, where weights go."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from refmoe.case import Case
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

honest = decorator("honest")


@honest("choose", numerics=Numerics(ties="highest"))
def highest_of_equals(stage: Stage, key: Tensor, count: int) -> Tensor:
    """The highest index among equals, as declared."""
    return key.shape[-1] - 1 - stage(key.flip(-1), count)


@honest("choose", numerics=Numerics(ties="any"))
def any_of_equals(stage: Stage, key: Tensor, count: int) -> Tensor:
    """torch.topk, whose order among equals is nobody's."""
    return key.nan_to_num(-torch.inf).topk(count, -1).indices


def _chosen_at_once(case: Case) -> bool | str:
    rounds = case.layer.routing.method == "sparsemixer"
    return not rounds or "sparsemixer chooses its second after its first"


@honest("choose", attributes={"supports": _chosen_at_once})
def by_index(stage: Stage, key: Tensor, count: int) -> Tensor:
    """Chosen experts by index instead of by weight."""
    return stage(key, count).sort(-1).values


@honest("permute", attributes={"stable": False})
def unstable(stage: Stage, ids: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """The rows of an expert in falling order."""
    rows, offsets = stage.pair(ids, layer)
    owner = torch.repeat_interleave(offsets.diff())
    order = torch.sort(owner * ids.numel() - rows).indices
    return rows[order], offsets


@honest("total")
def atomics(stage: Stage, rows: Tensor) -> Tensor:
    """Choices added up in an order that differs from call to call."""
    order = stage.memory.setdefault("order", torch.Generator().manual_seed(0))
    return stage(rows[:, torch.randperm(rows.shape[1], generator=order)])


@honest("routed")
def in_chunks(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """Seven tokens at a time, where a scale does not span all of them."""
    if len(x) < 8 or _spanned(layer):
        return stage(x, ids, weights, params, layer, {})
    parts = [range(t, min(t + 7, len(x))) for t in range(0, len(x), 7)]
    return torch.cat(
        [stage(x[t], ids[t], weights[t], params, layer, {}) for t in parts]
    )


@honest("routed")
def expert_parallel(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """Two ranks with half of the experts each, their sums added, then scaled.

    Not where a scale spans the rows of both.
    """
    if layer.routing.zero_experts or _spanned(layer):
        return stage(x, ids, weights, params, layer, taps)
    low, routing = ids < layer.experts // 2, layer.routing
    unscaled = replace(layer, routing=replace(routing, scale_on="weights"))
    first, second = (
        stage(x, ids.masked_fill(absent, -1), weights, params, unscaled, {})
        for absent in (~low, low)
    )
    scale = routing.scale if routing.scale_on == "sum" else 1.0
    total: Tensor = stage.port.rescale_sum(first + second, scale)
    return total


@honest("routed")
def unpacked(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """Block-scaled weights are turned into float32 before anything else."""
    plain = replace(
        params,
        gate_up=_unpacked(stage, params.gate_up),
        down=_unpacked(stage, params.down),
    )
    return stage(x, ids, weights, plain, layer, taps)


def _spanned(layer: Layer) -> bool:
    """Whether a scale spans several rows of x, or of the intermediate."""
    forms = (layer.activations, layer.requantize)
    return any(
        isinstance(form, BlockFormat) and (form.block[0] != 1 or form.global_scale)
        for form in forms
    )


def _unpacked(stage: Stage, weight: Any) -> Any:
    return stage.port.unpacked(weight) if isinstance(weight, Blocks) else weight


def _rounded_up(format: str | BlockFormat) -> str | BlockFormat:
    if isinstance(format, str) or format.scale != "e8m0":
        return format
    return replace(format, scale_rule="ceil")


def _scales_rounded_up(layer: Layer) -> Layer:
    return replace(
        layer,
        activations=_rounded_up(layer.activations),
        requantize=_rounded_up(layer.requantize),
    )


@honest("seen", declares=_scales_rounded_up, models=("deepseek-v4-flash",))
def scales_rounded_up(
    stage: Stage, x: Tensor, format: str | BlockFormat, scale: Tensor | None
) -> Tensor:
    """Scales of the activations are rounded up, as declared."""
    return stage(x, _rounded_up(format), scale)


def _weight_on_intermediate(layer: Layer) -> Layer:
    return replace(layer, weight_on="intermediate")


@honest("routed", declares=_weight_on_intermediate)
def weight_on_intermediate(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The routing weight multiplies the intermediate, as declared."""
    moved = _weight_on_intermediate(layer)
    return stage(x, ids, weights, params, moved, taps)
