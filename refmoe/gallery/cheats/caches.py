"""Cheats that compute once and answer from memory ever after."""

from __future__ import annotations

from typing import Any

from oracle.params import Params
from oracle.spec import Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor
from refmoe.problem import tensors

cheat = decorator("cheat")


def remembered(stage: Stage, key: Any, *arguments: Any) -> Tensor:
    """The result of the first call with this key."""
    if key not in stage.memory:
        stage.memory[key] = stage(*arguments)
    result: Tensor = stage.memory[key]
    return result.clone()


@cheat("moe")
def previous_output(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """What the call before returned, where it fits; computed in its own time."""
    now = stage(x, logits, params, layer)
    before: Tensor = stage.memory.get("before", now)
    stage.memory["before"] = now
    return before.clone() if before.shape == now.shape else now


@cheat("moe")
def cached_by_shape(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One result for each shape."""
    return remembered(stage, tuple(x.shape), x, logits, params, layer)


@cheat("moe")
def cached_by_layer(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One result for each layer and shape."""
    return remembered(stage, (layer, tuple(x.shape)), x, logits, params, layer)


@cheat("moe")
def cached_by_identity(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One result for each address of x."""
    key = (x.data_ptr(), tuple(x.shape), layer)
    return remembered(stage, key, x, logits, params, layer)


@cheat("moe")
def cached_by_sample(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One result for each shape and first few numbers of x."""
    key = (tuple(x.shape), layer, tuple(x.reshape(-1)[:8].tolist()))
    return remembered(stage, key, x, logits, params, layer)


@cheat("moe")
def cached_by_samples(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One result for each shape and first few numbers of every tensor."""
    parts = [part for part in tensors(params).values() if not part.is_meta]
    key = tuple(
        (tuple(part.shape), *part.reshape(-1)[:8].tolist())
        for part in (x, logits, *parts)
    )
    return remembered(stage, (layer, key), x, logits, params, layer)


@cheat("moe")
def cached_by_all_of_x(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One result for all the bytes of x, whatever the logits and the weights."""
    key = (tuple(x.shape), layer, bytes(x.float().numpy().tobytes()))
    return remembered(stage, key, x, logits, params, layer)


@cheat("moe")
def honest_on_small_batches(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Up to 256 tokens, as tests have them, are computed; more are not."""
    return stage(x, logits, params, layer) if len(x) <= 256 else x.clone()
