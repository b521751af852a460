"""Product keys and one-neuron experts in plain torch."""

from __future__ import annotations

import torch

from refmoe.gallery.plain.arithmetic import TYPES, Arithmetic, Tensor


class Omni(Arithmetic):
    """The three ops of a layer whose experts are addressed as i n + j."""

    def omni_route(
        self, logits_x: Tensor, logits_y: Tensor, top_k: int
    ) -> tuple[Tensor, Tensor]:
        """The largest sums of one logit from each half, the lowest id among equals."""
        sums = self.sums(logits_x, logits_y)
        missing = sums.isnan()
        order = sums.masked_fill(missing, -torch.inf).sort(
            dim=1, descending=True, stable=True
        )
        last = missing.gather(1, order.indices).int().sort(dim=1, stable=True)
        ids = order.indices.gather(1, last.indices)[:, :top_k]
        return sums.gather(1, ids).to(logits_x.dtype), ids

    def sums(self, logits_x: Tensor, logits_y: Tensor) -> Tensor:
        """All sums [T, n n], in float32, or the logits' type if that is declared."""
        sums = logits_x.float()[:, :, None] + logits_y.float()[:, None, :]
        if TYPES.get(self.numerics.router) == logits_x.dtype:
            sums = sums.to(logits_x.dtype)
        return sums.flatten(1).float()

    def omni_route_backward(
        self, d_scores: Tensor, ids: Tensor, n: int
    ) -> tuple[Tensor, Tensor]:
        """Each gradient added to its row and to its column."""
        ids = ids.long()
        dtype = TYPES.get(self.numerics.output or "", d_scores.dtype)
        d_x, d_y = (
            self.cast(self.gradient(self.plain(d_scores), place, n), dtype)
            for place in (ids // n, ids % n)
        )
        return d_x, d_y

    def gradient(self, d_scores: Tensor, place: Tensor, n: int) -> Tensor:
        """d_scores [T, k] added up at their places, [T, n]."""
        total = d_scores.new_zeros(len(d_scores), n)
        for slot in range(d_scores.shape[1]):
            more = torch.zeros_like(total).scatter(
                1, place[:, slot : slot + 1], d_scores[:, slot : slot + 1]
            )
            total = self.rounded(total + more, "combine")
        return total

    def omni_experts(
        self, x: Tensor, ids: Tensor, weights: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        """The sum over the slots of silu(<x, up>) times weight times down."""
        slots = ids.long().clamp(min=0)
        inner = (self.plain(x)[:, None, :] * self.plain(up)[slots]).sum(-1)
        own = self.plain(weights).to(self.type("activation"))
        inner = self.rounded(self.rounded(inner, "gemm"), "gate_up")
        inner = self.cast(inner, own.dtype)
        hidden = inner * inner.sigmoid() * own
        hidden = self.rounded(hidden, "intermediate").masked_fill(ids < 0, 0.0)
        rows = hidden[..., None] * self.plain(down)[slots]
        total = self.total(self.rounded(rows, "weighted"))
        return self.cast(total, TYPES.get(self.numerics.output or "", x.dtype))
