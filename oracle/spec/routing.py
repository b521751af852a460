"""How logits become ids and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from oracle.spec.checks import at_least, choose

Score = Literal["softmax", "sigmoid", "sqrtsoftplus", "identity"]
Order = Literal["score_then_topk", "topk_then_score"]
Method = Literal["topk", "sparsemixer", "hash"]
Bias = Literal["none", "selection", "logits"]
GroupScore = Literal["max", "top2"]
MaskedFill = Literal["-inf", "zero"]
Renormalize = Literal["none", "sum", "sum_plus_epsilon", "max_sum_epsilon"]
ScaleOn = Literal["weights", "sum"]


@dataclass(frozen=True, slots=True)
class Routing:
    """From logits f[T, E] to ids i[T, k] and weights f[T, k].

    With l the logits after `logits_scale`, `softcap` and a logits bias:

    * ``score_then_topk``: s = score(l) over all experts; the k largest of the key
      s (+ selection bias) are chosen; weights come from s *without* the bias.
    * ``topk_then_score``: the k largest of l (+ selection bias) are chosen; weights are
      score(l) over the chosen ones alone.

    Groups: experts form `groups` equal runs; the `top_groups` best by `group_score`
    stay, the key of all others becomes `masked_fill`. Ties go to the lowest index
    everywhere, -0 equals +0. Then weights are renormalised, scaled per expert and by
    `scale` (on the weights, or on the summed routed output).
    """

    score: Score = "softmax"
    order: Order = "score_then_topk"
    method: Method = "topk"
    bias: Bias = "none"
    groups: int = 1
    top_groups: int = 1
    group_score: GroupScore = "max"
    masked_fill: MaskedFill = "-inf"
    renormalize: Renormalize = "none"
    epsilon: float = 0.0
    scale: float = 1.0
    scale_on: ScaleOn = "weights"
    per_expert_scale: bool = False
    #: l *= logits_scale, then l = softcap * tanh(l / softcap) where a softcap is set.
    logits_scale: float = 1.0
    softcap: float | None = None
    #: Sparsemixer's jitter epsilon (Phi-3.5); read by that method only.
    jitter: float = 0.01
    #: Extra columns of the logits whose expert is the identity (LongCat): y += w * x.
    zero_experts: int = 0
    #: Extra last columns of the logits that weight the shared experts and take part in
    #: the renormalisation (Inkling).
    shared_logits: int = 0

    def __post_init__(self) -> None:
        choose("Routing", "score", self.score, get_args(Score))
        choose("Routing", "order", self.order, get_args(Order))
        choose("Routing", "method", self.method, get_args(Method))
        choose("Routing", "bias", self.bias, get_args(Bias))
        choose("Routing", "group_score", self.group_score, get_args(GroupScore))
        choose("Routing", "masked_fill", self.masked_fill, get_args(MaskedFill))
        choose("Routing", "renormalize", self.renormalize, get_args(Renormalize))
        choose("Routing", "scale_on", self.scale_on, get_args(ScaleOn))
        at_least("Routing", "groups", self.groups, 1)
        at_least("Routing", "top_groups", self.top_groups, 1)
        at_least("Routing", "zero_experts", self.zero_experts, 0)
        at_least("Routing", "shared_logits", self.shared_logits, 0)
        if self.top_groups > self.groups:
            raise ValueError(
                f"Routing: top_groups={self.top_groups} exceeds groups={self.groups}; "
                "keep at most as many groups as there are"
            )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(
                f"Routing: softcap={self.softcap} must be positive; use None for no cap"
            )
        if not math.isfinite(self.epsilon) or self.epsilon < 0:
            raise ValueError(f"Routing: epsilon={self.epsilon} must be finite and >= 0")
