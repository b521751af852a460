"""An honest port in plain float32 PyTorch, from which tests derive mistaken ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from oracle.blocks import dequantize, quantize
from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import Layer


class Honest:
    """Every stage in float32, each in a method of its own that a mistake overrides.

    The router breaks ties by the lowest index; the intermediate is rounded to bf16.
    """

    name = "honest"
    device = "cpu"
    numerics = Numerics(accumulate="ffma", intermediate="bf16")
    taps = ("ids", "weights", "rows", "gate_up", "intermediate", "down")

    # ---- ops

    def route(
        self, logits: torch.Tensor, params: Params, layer: Layer
    ) -> tuple[torch.Tensor, torch.Tensor]:
        routing = layer.routing
        logits = logits.float()
        if routing.bias == "logits":
            logits = logits + params.router_bias
        scores = self.score(logits, layer)
        key = scores if routing.order == "score_then_topk" else logits
        if routing.bias == "selection":
            key = key + params.router_bias
        if routing.groups > 1:
            key = self.masked(key, layer)
        ids = self.choose(key, layer.top_k)
        return ids, self.weigh(logits, scores, ids, params, layer)

    def experts(
        self,
        x: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        params: Params,
        layer: Layer,
        *,
        taps: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        out = self.routed(x, ids, weights, params, layer, {} if taps is None else taps)
        return out.to(x.dtype)

    def moe(
        self,
        x: torch.Tensor,
        logits: torch.Tensor,
        params: Params,
        layer: Layer,
        *,
        taps: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        taps = {} if taps is None else taps
        ids, weights = self.route(logits, params, layer)
        taps["ids"], taps["weights"] = ids, weights
        out = self.routed(x, ids, weights, params, layer, taps)
        if layer.shared is not None:
            out = out + self.shared(x, params, layer)
        return out.to(x.dtype)

    def permute(
        self, ids: torch.Tensor, layer: Layer
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flat = ids.reshape(-1)
        rows = torch.sort(flat, stable=True).indices
        counts = torch.bincount(flat, minlength=layer.experts)
        return rows, torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def activate(
        self, gate_up: torch.Tensor, params: Params, layer: Layer, expert: torch.Tensor
    ) -> torch.Tensor:
        return self.activation(gate_up.float(), layer).bfloat16()

    def combine(
        self, down: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        return self.combined(down.float(), rows, weights).to(down.dtype)

    def grouped_gemm(
        self, x: torch.Tensor, weights: Any, offsets: torch.Tensor
    ) -> torch.Tensor:
        return self.gemm(x.float(), weights, offsets).to(x.dtype)

    def omni_route(
        self, logits_x: torch.Tensor, logits_y: torch.Tensor, top_k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sums = (logits_x.float()[:, :, None] + logits_y.float()[:, None]).flatten(1)
        ids = self.choose(sums, top_k)
        return sums.gather(1, ids).to(logits_x.dtype), ids

    def omni_route_backward(
        self, d_scores: torch.Tensor, ids: torch.Tensor, n: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        zeros = torch.zeros(len(ids), n)
        d_x = zeros.scatter_add(1, ids // n, d_scores.float())
        d_y = zeros.scatter_add(1, ids % n, d_scores.float())
        return d_x.to(d_scores.dtype), d_y.to(d_scores.dtype)

    def omni_experts(
        self,
        x: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        up: torch.Tensor,
        down: torch.Tensor,
    ) -> torch.Tensor:
        s = torch.einsum("th,tkh->tk", x.float(), up[ids].float())
        a = (s * s.sigmoid() * weights).bfloat16().float()
        return torch.einsum("tk,tkh->th", a, down[ids].float()).to(x.dtype)

    # ---- stages

    def score(self, logits: torch.Tensor, layer: Layer) -> torch.Tensor:
        score = layer.routing.score
        if score == "softmax":
            return logits.softmax(-1)
        if score == "sigmoid":
            return logits.sigmoid()
        return torch.nn.functional.softplus(logits).sqrt()

    def masked(self, key: torch.Tensor, layer: Layer) -> torch.Tensor:
        routing = layer.routing
        groups = key.unflatten(1, (routing.groups, -1))
        if routing.group_score == "max":
            strength = groups.amax(-1)
        else:
            strength = groups.topk(2, -1).values.sum(-1)
        kept = self.choose(strength, routing.top_groups)
        mask = torch.zeros_like(strength).scatter(1, kept, 1.0).bool()
        fill = 0.0 if routing.masked_fill == "zero" else -torch.inf
        return groups.masked_fill(~mask[..., None], fill).flatten(1)

    def choose(self, key: torch.Tensor, count: int) -> torch.Tensor:
        return torch.sort(key, stable=True, dim=-1, descending=True).indices[:, :count]

    def weigh(
        self,
        logits: torch.Tensor,
        scores: torch.Tensor,
        ids: torch.Tensor,
        params: Params,
        layer: Layer,
    ) -> torch.Tensor:
        routing = layer.routing
        if routing.order == "topk_then_score":
            weights = self.score(logits.gather(1, ids), layer)
        else:
            weights = scores.gather(1, ids)
        if routing.renormalize != "none":
            weights = weights / (weights.sum(-1, keepdim=True) + routing.epsilon)
        return weights * routing.scale

    def weight(self, weight: Any, expert: int) -> torch.Tensor:
        part = weight[expert]
        value = dequantize(part) if isinstance(part, Blocks) else part
        return value.float()

    def gemm(
        self, x: torch.Tensor, weights: Any, offsets: torch.Tensor
    ) -> torch.Tensor:
        y = torch.zeros(len(x), weights.shape[1])
        edges = offsets.tolist()
        for expert, (start, stop) in enumerate(pairwise(edges)):
            y[start:stop] = x[start:stop] @ self.weight(weights, expert).T
        return y

    def activation(self, gate_up: torch.Tensor, layer: Layer) -> torch.Tensor:
        kind = layer.activation
        gate, up = gate_up.chunk(2, -1)
        if kind.limit:
            gate, up = gate.clamp(max=kind.limit), up.clamp(-kind.limit, kind.limit)
        return gate * torch.sigmoid(kind.alpha * gate) * (up + kind.beta)

    def as_seen(self, x: torch.Tensor, form: Any) -> torch.Tensor:
        if isinstance(form, str):
            return x.float()
        return dequantize(quantize(x, form)).float()

    def routed(
        self,
        x: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        params: Params,
        layer: Layer,
        taps: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        rows, offsets = self.permute(ids, layer)
        owner = ids.reshape(-1)[rows]
        x = self.as_seen(x, layer.activations)[rows // layer.top_k]
        gate_up = self.gemm(x, params.gate_up, offsets)
        if params.gate_up_bias is not None:
            gate_up = gate_up + params.gate_up_bias[owner].float()
        hidden = self.activation(gate_up, layer)
        if layer.weight_on == "intermediate":
            hidden = hidden * weights.reshape(-1)[rows][:, None]
        hidden = hidden.bfloat16()
        down = self.gemm(self.as_seen(hidden, layer.requantize), params.down, offsets)
        if params.down_bias is not None:
            down = down + params.down_bias[owner].float()
        taps |= {"rows": rows, "gate_up": gate_up, "intermediate": hidden, "down": down}
        if layer.weight_on == "intermediate":
            weights = torch.ones_like(weights)
        return self.combined(down, rows, weights)

    def combined(
        self, down: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        tokens, choices = weights.shape
        weighted = down * weights.reshape(-1)[rows][:, None]
        return torch.zeros(tokens, down.shape[1]).index_add_(
            0, rows // choices, weighted
        )

    def shared(self, x: torch.Tensor, params: Params, layer: Layer) -> torch.Tensor:
        assert isinstance(params.shared_gate_up, torch.Tensor)
        assert isinstance(params.shared_down, torch.Tensor)
        gate_up = x.float() @ params.shared_gate_up.float().T
        hidden = self.activation(gate_up, layer).bfloat16().float()
        return hidden @ params.shared_down.float().T


@pytest.fixture
def honest() -> type[Honest]:
    """The class, to instantiate or to derive a mistake from."""
    return Honest
