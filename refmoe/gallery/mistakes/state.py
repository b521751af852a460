"""Mistakes of state: races, and what one launch leaves to the next."""

from __future__ import annotations

from typing import Any

import torch

from oracle.params import Params
from oracle.spec import Layer, Routing
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="state")


def happens(stage: Stage) -> bool:
    """True once in a hundred calls."""
    chance = stage.memory.setdefault("chance", torch.Generator().manual_seed(0))
    return float(torch.rand((), generator=chance)) < 0.01


@mistake("renormalize", reference="sglang#11183", shows="a hundred launches")
def missing_barrier(stage: Stage, weights: Tensor, routing: Routing) -> Tensor:
    """Now and then the sum is read before it is written."""
    return weights / 0.0 if happens(stage) else stage(weights, routing)


@mistake("total", reference="sglang#11183", shows="a hundred launches")
def lost_update(stage: Stage, rows: Tensor) -> Tensor:
    """Now and then one of two atomic additions to an element is lost."""
    if rows.numel() and happens(stage):
        rows = rows.clone()
        rows[-1, -1, -1] = 0.0
    return stage(rows)


@mistake("stored", reference="DeepGEMM#451", shows="two calls of one shape")
def previous_result_on_replay(stage: Stage, result: Tensor, own: torch.dtype) -> Tensor:
    """A replay returns what the call before it computed."""
    now = stage(result, own)
    before: Tensor = stage.memory.get(tuple(now.shape), now)
    stage.memory[tuple(now.shape)] = now
    return before.clone()


@mistake("total", reference="vllm#54083", shows="two calls of one shape")
def workspace_not_cleared(stage: Stage, rows: Tensor) -> Tensor:
    """The sum goes on where the call before it ended."""
    total = stage(rows)
    if tuple(total.shape) in stage.memory:
        total = total + stage.memory[tuple(total.shape)]
    stage.memory[tuple(total.shape)] = total.clone()
    return total


@mistake("gemm", reference="vllm#46408", shows="a larger call, then a smaller one")
def rows_of_a_larger_call(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """A buffer of the largest call so far; experts end at the old offsets."""
    y = stage(x, weights, offsets)
    key = (y.shape[1], len(offsets))
    before = stage.memory.get(key)
    stage.memory[key] = y.clone()
    if before is not None and len(before) > len(y) > 0:
        y[-1] = before[len(y) - 1]
    return y


@mistake(
    "weighted", op="combine", attributes={"graph_safe": True},
    shows="a CUDA graph that is replayed on other values",
)  # fmt: skip
def scalar_read_at_capture(stage: Stage, rows: Tensor, weights: Tensor) -> Tensor:
    """The least weight is read on the host, where a graph keeps it as a bound.

    A capture cannot read: it takes what the call before it found.
    """
    if not (weights.is_cuda and torch.cuda.is_current_stream_capturing()):
        known = weights.masked_fill(weights.isnan(), torch.inf)
        stage.memory["least"] = float(known.min()) if weights.numel() else 0.0
    return stage(rows, weights.clamp(min=stage.memory["least"]))


@mistake("routed", reference="DeepGEMM#451", shows="other weights of the same shape")
def weights_prepared_once(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """Repacked weights are kept by shape, and an update of them goes unseen."""
    kept = stage.memory.setdefault((layer.name, tuple(params.down.shape)), params)
    return stage(x, ids, weights, kept, layer, taps)
