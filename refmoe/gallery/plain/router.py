"""The router in plain torch: logits to scores, keys, ids and weights."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from oracle.params import Params
from oracle.spec import Layer, Routing
from refmoe.gallery.plain.arithmetic import Arithmetic, Tensor


class Router(Arithmetic):
    """Every step of a router, each a method."""

    def route(
        self,
        logits: Tensor,
        params: Params,
        layer: Layer,
        *,
        token_ids: Tensor | None = None,
        taps: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k experts of each token by falling key, and their weights."""
        taps = {} if taps is None else taps
        return self.routing(logits, params, layer, token_ids, taps)[:2]

    def routing(
        self,
        logits: Tensor,
        params: Params,
        layer: Layer,
        token_ids: Tensor | None,
        taps: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ids [T, k], their weights, and those of shared experts with logits."""
        routing, bias = layer.routing, params.router_bias
        logits = self.rounded(self.incoming(logits), "logits").to(self.type("router"))
        logits = self.transform(logits, bias, routing)
        scores = logits
        if routing.method == "sparsemixer":
            ids, weights = self.sparsemixer(logits, routing.jitter)
        else:
            if routing.order == "score_then_topk":
                scores = self.score(logits, routing.score)
            if routing.method == "hash":
                ids = self.look_up(params.hash_table, token_ids)
            else:
                key = self.key(scores[:, : layer.routed_choices], bias, routing)
                ids = self.choose(key, layer.top_k)
            weights = self.gather(scores, logits, ids, params, layer)
        if routing.renormalize != "none":
            weights = self.renormalize(weights, routing)
        weights = self.rescale(weights, ids, params, routing)
        weights = self.rounded(weights, "weights")
        routed, shared = weights[:, : layer.top_k], weights[:, layer.top_k :]
        taps |= {"scores": scores, "ids": ids, "weights": routed}
        return ids, routed, shared

    def incoming(self, logits: Tensor) -> Tensor:
        """The logits as they come, in a type of their own."""
        return logits

    def transform(
        self, logits: Tensor, bias: Tensor | None, routing: Routing
    ) -> Tensor:
        """Scale, softcap and a bias of the linear layer, [T, columns]."""
        if routing.logits_scale != 1.0:
            logits = logits * routing.logits_scale
        if routing.softcap is not None:
            logits = torch.tanh(logits / routing.softcap) * routing.softcap
        if routing.bias == "logits" and bias is not None:
            logits = logits.clone()
            logits[:, : len(bias)] += bias.to(logits.dtype)
        return logits

    def score(self, logits: Tensor, name: str) -> Tensor:
        """softmax, sigmoid, sqrt(softplus) or nothing, over the last axis."""
        if name == "softmax":
            return logits.softmax(-1)
        if name == "sigmoid":
            return logits.sigmoid()
        if name == "sqrtsoftplus":
            # By default torch drops the logarithm from 20 on, too early for float64.
            return softplus(logits, threshold=40.0).sqrt()
        return logits

    def key(self, scores: Tensor, bias: Tensor | None, routing: Routing) -> Tensor:
        """What top-k compares: scores and a selection bias, inside the best groups."""
        if routing.bias == "selection" and bias is not None:
            scores = scores + bias
        if routing.groups == routing.top_groups:
            return scores
        size = scores.shape[1] // routing.groups
        grouped = scores.reshape(len(scores), routing.groups, size)
        strength = self.strength(grouped, routing.group_score)
        kept = self.choose(strength, routing.top_groups)
        return self.mask(grouped, kept, routing.masked_fill)

    def strength(self, grouped: Tensor, rule: str) -> Tensor:
        """What groups are compared by, [T, groups] from keys [T, groups, size]."""
        if rule == "max":
            return grouped.amax(-1)
        return grouped.topk(2, -1).values.sum(-1)

    def mask(self, grouped: Tensor, kept: Tensor, fill: str) -> Tensor:
        """The keys [T, E] with those outside the `kept` groups filled."""
        outside = torch.ones(grouped.shape[:2], dtype=torch.bool)
        outside = outside.scatter(1, kept, False)[..., None]
        value = 0.0 if fill == "zero" else -torch.inf
        return grouped.masked_fill(outside, value).flatten(1)

    def choose(self, key: Tensor, count: int) -> Tensor:
        """The `count` largest of each row, the lowest index among equals, NaN last."""
        missing = key.isnan()
        lowest = key.masked_fill(missing, -torch.inf)
        order = torch.sort(lowest, stable=True, dim=-1, descending=True).indices
        last = torch.sort(missing.gather(-1, order).int(), stable=True, dim=-1).indices
        return order.gather(-1, last)[:, :count]

    def gather(
        self,
        scores: Tensor,
        logits: Tensor,
        ids: Tensor,
        params: Params,
        layer: Layer,
    ) -> Tensor:
        """Scores of the chosen, then of shared experts that have logits of their own.

        Where logits were compared, the score is taken of the chosen ones alone.
        """
        shared = torch.arange(layer.routed_choices, layer.logits_columns)
        columns = torch.cat([ids, shared.expand(len(ids), -1)], 1)
        if layer.routing.order == "topk_then_score":
            return self.score(logits.gather(1, columns), layer.routing.score)
        return scores.gather(1, columns)

    def renormalize(self, weights: Tensor, routing: Routing) -> Tensor:
        """The weights over their sum."""
        total = weights.sum(-1, keepdim=True)
        if routing.renormalize == "sum_plus_epsilon":
            total = total + routing.epsilon
        elif routing.renormalize == "max_sum_epsilon":
            total = total.clamp(min=routing.epsilon)
        return weights / total

    def rescale(
        self, weights: Tensor, ids: Tensor, params: Params, routing: Routing
    ) -> Tensor:
        """The routed scale, then each expert's own."""
        if routing.scale_on == "weights" and routing.scale != 1.0:
            weights = weights * routing.scale
        table = params.per_expert_scale
        if routing.per_expert_scale and table is not None:
            own = torch.ones_like(weights)
            own[:, : ids.shape[1]] = table.to(weights.dtype)[ids]
            weights = weights * own
        return weights

    def sparsemixer(self, logits: Tensor, jitter: float) -> tuple[Tensor, Tensor]:
        """Two rounds of an argmax with a softmax over its near rivals."""
        ids: list[Tensor] = []
        weights: list[Tensor] = []
        left = logits
        for taken in range(2):
            ranked = self.choose(left, 1 + taken)
            first = ranked[:, :1]
            if taken:
                # Others may have the -inf of the one that was taken.
                first = torch.where(first == ids[0], ranked[:, 1:], first)
            top = left.gather(1, first)
            ratio = (top - logits) / torch.maximum(logits.abs(), top)
            share = left.masked_fill(ratio > 2 * jitter, -torch.inf).softmax(-1)
            ids.append(first)
            weights.append(share.gather(1, first))
            left = left.scatter(1, first, -torch.inf)
        return torch.cat(ids, 1), torch.cat(weights, 1)

    def look_up(self, table: Tensor | None, token_ids: Tensor | None) -> Tensor:
        """The experts of each token by its id."""
        if table is None or token_ids is None:
            raise ValueError("look_up: hash routing needs a table and token ids")
        return table[token_ids.long()]
