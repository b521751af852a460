"""Mistakes of routing: which experts are chosen."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.params import Params
from oracle.spec import Layer, Routing
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="routing")


@mistake("choose", reference="flashinfer#2822, flashinfer#2168", shows="keys below 0")
def running_maximum_from_zero(stage: Stage, key: Tensor, count: int) -> Tensor:
    """The search starts from key 0 at expert 0 instead of from -inf."""
    ids = stage(key, count)
    return ids.where(key.gather(1, ids) > 0, 0)


@mistake(
    "choose", reference="vllm#54403, vllm#52679", shows="equal keys at the cut",
    verdict="UNDECLARED", models=("deepseek-v3",),
)  # fmt: skip
def highest_of_equals(stage: Stage, key: Tensor, count: int) -> Tensor:
    """Among equal keys the highest index is taken, and nothing says so."""
    return key.shape[-1] - 1 - stage(key.flip(-1), count)


@mistake("choose", reference="vllm#39391, aiter#4530", shows="a NaN among the logits")
def nan_row_repeats_expert_0(stage: Stage, key: Tensor, count: int) -> Tensor:
    """A row with a NaN chooses expert 0 in every slot."""
    broken = key.isnan().any(-1, keepdim=True)
    return stage(key, count).masked_fill(broken, 0)


@mistake("choose", reference="imp#2056", shows="more than 256 experts")
def experts_from_256_on_are_ignored(stage: Stage, key: Tensor, count: int) -> Tensor:
    """The kernel looks at 256 experts."""
    return stage(key[:, :256], count)


@mistake("choose", shows="experts no multiple of 4")
def last_experts_are_ignored(stage: Stage, key: Tensor, count: int) -> Tensor:
    """Keys are read four at a time, and a rest is left out."""
    whole = key.shape[-1] // 4 * 4
    return stage(key[:, :whole] if whole >= count else key, count)


@mistake(
    "mask", reference="vllm#13474, DeepSeek-V3#741", models=("deepseek-v3",),
    shows="negative keys inside the kept groups",
)  # fmt: skip
def masked_groups_score_zero(
    stage: Stage, grouped: Tensor, kept: Tensor, fill: str
) -> Tensor:
    """Experts of groups that are left out get the key 0 instead of -inf."""
    return stage(grouped, kept, "zero")


@mistake(
    "strength", reference="sglang#3705", models=("deepseek-v3",),
    shows="a group with one good expert",
)  # fmt: skip
def groups_by_their_best(stage: Stage, grouped: Tensor, rule: str) -> Tensor:
    """Groups are compared by their best expert instead of the best two."""
    return stage(grouped, "max")


@mistake("key", models=("deepseek-v3",), shows="several groups")
def groups_are_ignored(
    stage: Stage, scores: Tensor, bias: Tensor | None, routing: Routing
) -> Tensor:
    """The experts of all groups take part."""
    return stage(scores, bias, replace(routing, groups=1, top_groups=1))


@mistake(
    "key", models=("deepseek-v3", "deepseek-v4-flash"),
    shows="a bias of the selection",
)  # fmt: skip
def selection_bias_missing(
    stage: Stage, scores: Tensor, bias: Tensor | None, routing: Routing
) -> Tensor:
    """The correction bias is left out."""
    return stage(scores, None, routing)


@mistake(
    "key", reference="flashinfer#2909", models=("deepseek-v3", "deepseek-v4-flash"),
    shows="a bias that bf16 does not hold, or close keys",
)  # fmt: skip
def selection_bias_in_bf16(
    stage: Stage, scores: Tensor, bias: Tensor | None, routing: Routing
) -> Tensor:
    """The correction bias is rounded to the type of the activations."""
    return stage(scores, None if bias is None else bias.bfloat16().float(), routing)


@mistake(
    "key", reference="flashinfer#2909", models=("deepseek-v3", "deepseek-v4-flash"),
    shows="a bias of another type than the activations",
)  # fmt: skip
def selection_bias_bits_as_bf16(
    stage: Stage, scores: Tensor, bias: Tensor | None, routing: Routing
) -> Tensor:
    """The bytes of a float32 bias are read as bf16."""
    if bias is not None:
        bias = bias.contiguous().view(torch.bfloat16)[: len(bias)].float()
    return stage(scores, bias, routing)


@mistake(
    "incoming", reference="sglang#30989", models=("gpt-oss-120b", "deepseek-v3"),
    shows="logits of 16 bits",
)  # fmt: skip
def logits_bits_as_fp16(stage: Stage, logits: Tensor) -> Tensor:
    """The bytes of bf16 logits are read as fp16."""
    if logits.dtype == torch.bfloat16:
        logits = logits.view(torch.float16).to(torch.bfloat16)
    return stage(logits)


@mistake("key", models=("llama-4-scout",), shows="saturated logits")
def sigmoid_before_the_choice(
    stage: Stage, scores: Tensor, bias: Tensor | None, routing: Routing
) -> Tensor:
    """Experts are compared by their sigmoid, which is 1 for many."""
    return stage(scores.sigmoid(), bias, routing)


@mistake(
    "look_up", models=("deepseek-v4-flash-hash",),
    shows="hash routing, token ids above 63",
)  # fmt: skip
def token_id_masked(stage: Stage, table: Tensor, token_ids: Tensor) -> Tensor:
    """The table is indexed by the low bits of the token id."""
    return stage(table, token_ids & 63)


@mistake("sparsemixer", models=("phi-3.5-moe",), shows="a rival at one to two jitters")
def rivals_within_one_jitter(
    stage: Stage, logits: Tensor, jitter: float
) -> tuple[Tensor, Tensor]:
    """Rivals are masked from one jitter below the maximum on, not from two."""
    return stage.pair(logits, jitter / 2)


@mistake("routing", shows="weights that do not fall with the index")
def ids_sorted_without_their_weights(
    stage: Stage,
    logits: Tensor,
    params: Params,
    layer: Layer,
    token_ids: Tensor | None,
    taps: dict[str, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen experts are sorted by index, and their weights are not."""
    ids, weights, gammas = stage.honest(logits, params, layer, token_ids, taps)
    return ids.sort(-1).values, weights, gammas
