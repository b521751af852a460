"""Mistakes of permutation and expert parallelism: rows lost, doubled, misplaced."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

from oracle.params import Params
from oracle.spec import Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="permutation")


@mistake("permute", reference="vllm-xpu-kernels#453", shows="two tokens")
def only_the_first_slot(
    stage: Stage, ids: Tensor, layer: Layer
) -> tuple[Tensor, Tensor]:
    """Counts are right, but only the first slot was scattered."""
    rows, offsets = stage.pair(ids, layer)
    return rows[:1].expand_as(rows).contiguous(), offsets


@mistake("permute", reference="vllm#46408", shows="ids of -1")
def minus_one_is_the_last_expert(
    stage: Stage, ids: Tensor, layer: Layer
) -> tuple[Tensor, Tensor]:
    """A map of experts is indexed with -1, which is its last entry."""
    return stage.pair(ids.where(ids != -1, layer.experts - 1), layer)


@mistake("permute", shows="any case")
def offsets_without_the_first(
    stage: Stage, ids: Tensor, layer: Layer
) -> tuple[Tensor, Tensor]:
    """The inclusive sum of the counts stands for the exclusive one."""
    rows, offsets = stage.pair(ids, layer)
    return rows, torch.cat([offsets[1:], offsets[-1:]])


@mistake("permute", shows="a token that chose an expert twice")
def duplicates_counted_once(
    stage: Stage, ids: Tensor, layer: Layer
) -> tuple[Tensor, Tensor]:
    """A bit per token and expert cannot hold a second choice."""
    earlier = torch.stack(
        [(ids[:, :j] == ids[:, j : j + 1]).any(1) for j in range(ids.shape[1])], 1
    )
    return stage.pair(ids.masked_fill(earlier, -1), layer)


@mistake("second_gemm", reference="flashinfer#3547", shows="a shard with an offset")
def local_offset_twice(
    stage: Stage,
    hidden: Tensor,
    offsets: Tensor,
    owner: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Of two ranks the second subtracts its offset twice, and returns zeros."""
    y = stage(hidden, offsets, owner, params, layer)
    return y.masked_fill((owner >= layer.experts // 2)[:, None], 0.0)


@mistake("second_gemm", reference="vllm#29773, vllm#47158", shows="expert 0 chosen")
def map_taken_for_a_mask(
    stage: Stage,
    hidden: Tensor,
    offsets: Tensor,
    owner: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Local indices stand where a mask is expected, and index 0 is false."""
    y = stage(hidden, offsets, owner, params, layer)
    return y.masked_fill((owner == 0)[:, None], 0.0)


@mistake(
    "combined", reference="vllm#54083, aiter#4636", shows="slots without an expert"
)
def stale_slots_are_summed(
    stage: Stage, part: Tensor, rows: Tensor, shape: Any
) -> Tensor:
    """Slots without an expert add what an earlier call left in their place."""
    total = stage(part, rows, shape)
    stale: Tensor | None = stage.memory.get(tuple(total.shape))
    stage.memory[tuple(total.shape)] = total.clone()
    if stale is not None and len(rows) < shape[0] * shape[1]:
        return total + stale
    return total


@mistake(
    "shared", reference="sglang#28237, vllm#49378", models=("deepseek-v3",),
    shows="a shared expert",
)  # fmt: skip
def shared_expert_per_rank(
    stage: Stage, x: Tensor, params: Params, layer: Layer, gammas: Tensor
) -> Tensor:
    """Each of two ranks adds the replicated expert."""
    return stage(x, params, layer, gammas).mul(2.0)


@mistake(
    "shared", reference="TensorRT-LLM#15922", models=("deepseek-v3",),
    shows="a shared expert, a routed scale",
)  # fmt: skip
def shared_expert_over_the_scale(
    stage: Stage, x: Tensor, params: Params, layer: Layer, gammas: Tensor
) -> Tensor:
    """The shared expert is divided by the routed scale."""
    return stage(x, params, layer, gammas).div(layer.routing.scale)


@mistake("gemm", reference="aiter#4041", shows="rows no multiple of 16")
def tail_rows_dropped(stage: Stage, x: Tensor, weights: Any, offsets: Tensor) -> Tensor:
    """Rows behind an expert's last whole tile of 16 stay zero."""
    return kept(stage(x, weights, offsets), offsets, lambda count: count // 16 * 16)


@mistake("gemm", reference="DeepGEMM#268", shows="an expert with more than 64 rows")
def rows_from_64_on_dropped(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """An expert's buffer holds 64 rows."""
    return kept(stage(x, weights, offsets), offsets, lambda count: min(count, 64))


def kept(y: Tensor, offsets: Tensor, limit: Any) -> Tensor:
    """y with only the first `limit` rows of each expert."""
    y, edges = y.clone(), offsets.tolist()
    for start, stop in pairwise(edges):
        y[start + limit(stop - start) : stop] = 0.0
    return y


@mistake("gemm", reference="MSLK#158", shows="an expert without rows")
def empty_experts_skipped(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """Weights are counted by the experts that have rows."""
    full = offsets.diff() > 0
    dense = torch.cat([offsets[:1], offsets[1:][full]])
    padded = torch.full_like(offsets, int(offsets[-1]))
    padded[: len(dense)] = dense
    return stage(x, weights, padded)


@mistake("combined", shows="a permutation that is not its own inverse")
def inverse_permutation(stage: Stage, part: Tensor, rows: Tensor, shape: Any) -> Tensor:
    """Rows go back through the permutation instead of its inverse."""
    return stage(part, rows.sort().values[rows.argsort()], shape)


@mistake("with_identity", models=("longcat-flash",), shows="experts that hand x on")
def identity_experts_dropped(
    stage: Stage,
    down: Tensor,
    rows: Tensor,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    layer: Layer,
) -> tuple[Tensor, Tensor]:
    """Experts without weights contribute nothing."""
    return down, rows


@mistake("total", models=("deepseek-v4-flash",), shows="k no power of two")
def choices_up_to_a_power_of_two(stage: Stage, rows: Tensor) -> Tensor:
    """A tree over the choices leaves out those past a power of two."""
    count = rows.shape[1]
    return stage(rows[:, : 1 << (count.bit_length() - 1)])


@mistake("total", shows="a case with more than 16 tokens")
def one_choice_of_one_token_lost(stage: Stage, rows: Tensor) -> Tensor:
    """The last choice of token 16 is dropped."""
    if len(rows) <= 16:
        return stage(rows)
    rows = rows.clone()
    rows[16, -1] = 0.0
    return stage(rows)
