"""Mistakes of product keys and one-neuron experts."""

from __future__ import annotations

import torch

from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", reference="flash-algo/omni-moe")


@mistake("omni_route", group="routing", shows="negative sums among the best")
def negative_sum_becomes_zero(
    stage: Stage, logits_x: Tensor, logits_y: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """A masked maximum over the list of the best cannot move a negative entry."""
    scores, ids = stage.pair(logits_x, logits_y, top_k)
    lost = scores < 0
    lost[:, :1] = False
    return scores.masked_fill(lost, 0.0), ids.masked_fill(lost, -1)


@mistake("sums", group="memory", shows="n no power of two")
def keys_of_the_next_token(stage: Stage, logits_x: Tensor, logits_y: Tensor) -> Tensor:
    """The mask is that of a power of two, and a row reads into the next."""
    tokens, n = logits_x.shape
    if n & (n - 1) == 0 or tokens < 2:
        return stage(logits_x, logits_y)
    moved = torch.cat([logits_x[1:, :1], logits_x[-1:, :1]])
    first = torch.where(moved > logits_x[:, -1:], moved, logits_x[:, -1:])
    return stage(torch.cat([logits_x[:, :-1], first], 1), logits_y)


@mistake("sums", group="precision", shows="sums that bf16 does not hold")
def sums_in_bf16(stage: Stage, logits_x: Tensor, logits_y: Tensor) -> Tensor:
    """Sums are rounded to bf16 before they are compared."""
    return stage(logits_x, logits_y).bfloat16().float()


@mistake("sums", group="memory", shows="a NaN among the logits")
def nan_key_skipped(stage: Stage, logits_x: Tensor, logits_y: Tensor) -> Tensor:
    """A NaN counts as zero."""
    return stage(logits_x, logits_y).nan_to_num(0.0, torch.inf, -torch.inf)


@mistake("gradient", group="state", shows="two calls of one shape")
def gradient_not_cleared(
    stage: Stage, d_scores: Tensor, place: Tensor, n: int
) -> Tensor:
    """The buffer of gradients is cleared in the first call alone."""
    total = stage(d_scores, place, n)
    calls = stage.memory.get("calls", 0)
    stage.memory["calls"] = calls + 1
    # Rows and columns have a buffer each.
    buffer = (calls % 2, tuple(total.shape))
    if buffer in stage.memory:
        total = total + stage.memory[buffer]
    stage.memory[buffer] = total.clone()
    return total


@mistake("gradient", group="permutation", shows="two slots of one row")
def gradient_overwritten(
    stage: Stage, d_scores: Tensor, place: Tensor, n: int
) -> Tensor:
    """Slots of the same row overwrite each other instead of adding up."""
    return d_scores.new_zeros(len(d_scores), n).scatter(1, place, d_scores)


@mistake("omni_experts", group="activation", shows="any case")
def weight_inside_the_activation(
    stage: Stage, x: Tensor, ids: Tensor, weights: Tensor, up: Tensor, down: Tensor
) -> Tensor:
    """The routing weight multiplies x, through SiLU."""
    slots = ids.long().clamp(min=0)
    inner = (x.float()[:, None, :] * up.float()[slots]).sum(-1) * weights
    hidden = torch.nn.functional.silu(inner).masked_fill(ids < 0, 0.0)
    return (hidden[..., None] * down.float()[slots]).sum(1).to(x.dtype)
