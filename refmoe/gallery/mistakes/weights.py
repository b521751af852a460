"""Mistakes of routing: how the chosen experts are weighted."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import Layer, Routing
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="routing")
_SOFTMAX = ("olmoe-1b-7b", "qwen2-moe-a2.7b")
_BIASED = ("deepseek-v3", "deepseek-v4-flash")
#: So that wrong weights show as such, and not in how outputs round.
_WIDE = Numerics(output="fp32")


@mistake(
    "gather", reference="sglang#35160", models=_SOFTMAX, shows="no renormalisation"
)
def raw_logits(
    stage: Stage,
    scores: Tensor,
    logits: Tensor,
    ids: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Without renormalisation the logits themselves are the weights."""
    if layer.routing.renormalize != "none":
        return stage(scores, logits, ids, params, layer)
    return logits.gather(1, ids)


@mistake("gather", reference="mlxcel#391", models=_SOFTMAX, shows="no renormalisation")
def softmax_of_the_chosen(
    stage: Stage,
    scores: Tensor,
    logits: Tensor,
    ids: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """The softmax runs over the chosen logits alone."""
    return logits.gather(1, ids).softmax(-1)


@mistake("gather", reference="vLLM-metax#270", models=_BIASED, shows="a bias")
def bias_leaks_into_weights(
    stage: Stage,
    scores: Tensor,
    logits: Tensor,
    ids: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Weights are the biased scores that the selection compares."""
    weights = stage(scores, logits, ids, params, layer)
    if layer.routing.bias != "selection" or params.router_bias is None:
        return weights
    return weights + params.router_bias[ids]


@mistake(
    "gather", reference="vLLM-metax#270", models=_BIASED, shows="E = 128 and k = 8"
)
def bias_leaks_at_one_tile(
    stage: Stage,
    scores: Tensor,
    logits: Tensor,
    ids: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """The same in the kernel of 128 experts and top 8 only."""
    weights = stage(scores, logits, ids, params, layer)
    if (layer.experts, layer.top_k) != (128, 8) or params.router_bias is None:
        return weights
    return weights + params.router_bias[ids]


@mistake("gather", reference="tt-metal#47671", shows="any case")
def weights_of_the_first_experts(
    stage: Stage,
    scores: Tensor,
    logits: Tensor,
    ids: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Weights are read from the first k columns."""
    first = torch.arange(ids.shape[1]).expand_as(ids)
    return stage(scores, logits, first, params, layer)


@mistake("gather", shows="unequal weights")
def weights_in_rising_order(
    stage: Stage,
    scores: Tensor,
    logits: Tensor,
    ids: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """Ids fall, their weights rise."""
    return stage(scores, logits, ids, params, layer).flip(-1)


@mistake("renormalize", shows="renormalised weights")
def no_renormalisation(stage: Stage, weights: Tensor, routing: Routing) -> Tensor:
    """The weights keep their sum."""
    return weights


@mistake("renormalize", models=("hunyuan-large",), shows="k = 1")
def one_expert_is_not_renormalised(
    stage: Stage, weights: Tensor, routing: Routing
) -> Tensor:
    """With a single choice the step is skipped, though its weight is to be 1."""
    return weights if weights.shape[-1] == 1 else stage(weights, routing)


@mistake("renormalize", models=("glm-4.5", "lfm2-8b-a1b"), shows="scores that vanish")
def epsilon_missing(stage: Stage, weights: Tensor, routing: Routing) -> Tensor:
    """Nothing keeps a sum of zero from making NaN."""
    return weights / weights.sum(-1, keepdim=True)


@mistake(
    "renormalize", models=("inkling",),
    shows="shared experts with logits",
)  # fmt: skip
def shared_logits_left_out(stage: Stage, weights: Tensor, routing: Routing) -> Tensor:
    """The shared experts' scores do not join the sum."""
    routed = weights[:, : weights.shape[1] - routing.shared_logits]
    return weights / routed.sum(-1, keepdim=True)


@mistake("rescale", reference="vllm#24119, sglang#35152", models=_BIASED, shows="scale")
def scale_twice(
    stage: Stage, weights: Tensor, ids: Tensor, params: Params, routing: Routing
) -> Tensor:
    """The routed scale is applied twice."""
    return stage(weights, ids, params, replace(routing, scale=routing.scale**2))


@mistake(
    "rescale", reference="flashinfer#3499, sglang#8333", models=_BIASED, shows="scale"
)
def scale_missing(
    stage: Stage, weights: Tensor, ids: Tensor, params: Params, routing: Routing
) -> Tensor:
    """The routed scale is taken as 1."""
    return stage(weights, ids, params, replace(routing, scale=1.0))


@mistake(
    "rescale", models=("gemma-4-26b-a4b",),
    shows="a scale per expert",
)  # fmt: skip
def scale_of_the_slot(
    stage: Stage, weights: Tensor, ids: Tensor, params: Params, routing: Routing
) -> Tensor:
    """The scale per expert is indexed by the slot."""
    return stage(weights, torch.arange(ids.shape[1]).expand_as(ids), params, routing)


@mistake(
    "score", reference="vllm dsv4_topk.py", models=("deepseek-v4-flash",),
    shows="logits far below 0",
)  # fmt: skip
def softplus_without_log1p(stage: Stage, logits: Tensor, name: str) -> Tensor:
    """log(1 + e^l), which cancels for small l."""
    if name != "sqrtsoftplus":
        return stage(logits, name)
    return torch.log(1.0 + torch.exp(logits)).sqrt()


@mistake("score", shows="logits beyond 88")
def softmax_without_its_maximum(stage: Stage, logits: Tensor, name: str) -> Tensor:
    """e^l overflows where the largest logit was not subtracted."""
    if name != "softmax":
        return stage(logits, name)
    power = torch.exp(logits)
    return power / power.sum(-1, keepdim=True)


@mistake(
    "transform", reference="vllm grok1.py, sglang grok.py", models=("grok-1-sglang",),
    shows="a soft cap",
)  # fmt: skip
def softcap_missing(
    stage: Stage, logits: Tensor, bias: Tensor | None, routing: Routing
) -> Tensor:
    """The logits are not capped."""
    return stage(logits, bias, replace(routing, softcap=None))


@mistake("rescale", numerics=_WIDE, shows="expert 0 chosen")
def expert_0_taken_for_none(
    stage: Stage, weights: Tensor, ids: Tensor, params: Params, routing: Routing
) -> Tensor:
    """A slot counts as empty where its id is not above 0."""
    own = stage(weights, ids, params, routing)
    own[:, : ids.shape[1]].masked_fill_(ids <= 0, 0.0)
    return own


@mistake(
    "rescale",
    numerics=_WIDE,
    shows="two tokens in a row that chose alike",
)
def equal_choices_share_their_weights(
    stage: Stage, weights: Tensor, ids: Tensor, params: Params, routing: Routing
) -> Tensor:
    """A token that chose as the one before it did gets that one's weights."""
    own = stage(weights, ids, params, routing).clone()
    again = (ids[1:] == ids[:-1]).all(1)
    own[1:][again] = own[:-1][again]
    return own
