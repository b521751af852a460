"""The experts in plain torch: permute, two GEMMs with an activation, combine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from oracle.params import Blocks, Params
from oracle.spec import Activation, BlockFormat, Layer
from refmoe.gallery.plain import activation
from refmoe.gallery.plain.arithmetic import TYPES, Tensor
from refmoe.gallery.plain.blocks import Quantizer


def renumbered(ids: Tensor, layer: Layer, local: tuple[int, int] | None) -> Tensor:
    """Ids counted from the first expert that lives here; -1 for those elsewhere.

    Identity experts keep their ids in the first rank, and are elsewhere in the others.
    """
    if local is None:
        return ids
    start, stop = local
    here = (ids >= start) & (ids < stop)
    identity = (ids >= layer.experts) & (start == 0)
    return (ids - start).masked_fill(~(here | identity), -1)


class Experts(Quantizer):
    """Every step from chosen experts to the routed sum, each a method."""

    def seen(
        self, x: Tensor, format: str | BlockFormat, scale: Tensor | None
    ) -> Tensor:
        """x as a GEMM sees it: in a plain type, or quantised and back.

        Here a NaN makes its block NaN; only the op refuses it.
        """
        if isinstance(format, str):
            return self.plain(x.to(TYPES[format]))
        if format.nonfinite == "error":
            format = replace(format, nonfinite="propagate")
        return self.dequantize(self.quantize(x, format, scale))

    def permute(
        self, ids: Tensor, layer: Layer, *, local: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots by expert, and where each expert starts; ids out of range have none."""
        if local is not None:
            rows, offsets = self.permute(renumbered(ids, layer, local), layer)
            start, stop = local
            rows = rows[: int(offsets[stop - start])]
            return rows, offsets[: stop - start + 1]
        flat = ids.reshape(-1).long()
        here = ((flat >= 0) & (flat < layer.experts)).nonzero().reshape(-1)
        rows = here[torch.sort(flat[here], stable=True).indices]
        counts = torch.bincount(flat[rows], minlength=layer.experts)
        return rows, torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def weight(self, weights: Any, expert: int) -> Tensor:
        """One expert's weight [N, K]."""
        return self.unpacked(weights[expert])

    def unpacked(self, weight: Any) -> Tensor:
        """A weight as it meets x: blocks are decoded and rounded once."""
        if not isinstance(weight, Blocks):
            return self.plain(weight)
        return self.plain(self.cast(self.decode(weight), self.type("dequantized")))

    def gemm(self, x: Tensor, weights: Any, offsets: Tensor) -> Tensor:
        """Each expert's rows [R, K] times its weight, [R, N]."""
        y = torch.zeros(len(x), weights.shape[1], dtype=self.compute)
        for expert, (start, stop) in enumerate(pairwise(offsets.tolist())):
            if start < stop:
                part = self.weight(weights, expert)
                y[start:stop] = self.product(x[start:stop], part)
        return y

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """One product, as it leaves its GEMM."""
        return self.rounded(self.matmul(x, weight), "gemm")

    def grouped_gemm(self, x: Tensor, weights: Any, offsets: Tensor) -> Tensor:
        """`gemm` as an op: from and to the layer's type."""
        y = self.gemm(self.plain(x), weights, offsets)
        return self.stored(y, x.dtype)

    def stored(self, result: Tensor, own: torch.dtype) -> Tensor:
        """A result as it leaves the port, in its own type if none is declared."""
        return self.cast(result, TYPES.get(self.numerics.output or "", own))

    def add_bias(self, y: Tensor, bias: Tensor | None, owner: Tensor) -> Tensor:
        """y plus the bias of each row's expert."""
        return y if bias is None else y + self.plain(bias)[owner]

    def activate(
        self, gate_up: Tensor, params: Params, layer: Layer, expert: Tensor
    ) -> Tensor:
        """The activation as an op."""
        hidden = self.activation(self.plain(gate_up), params, layer.activation, expert)
        return self.cast(hidden, self.type("intermediate"))

    def activate_quantize(
        self,
        gate_up: Tensor,
        params: Params,
        layer: Layer,
        expert: Tensor,
        format: BlockFormat,
    ) -> tuple[Tensor, Tensor]:
        """The activation's codes and scales as one op."""
        hidden = self.activate(gate_up, params, layer, expert)
        blocks = self.quantize(hidden, format, params.intermediate_scale)
        return blocks.codes, blocks.scales

    def activation(
        self,
        gate_up: Tensor,
        params: Params | None,
        kind: Activation,
        owner: Tensor | None,
    ) -> Tensor:
        """gate and up to the intermediate, in the type of the activation.

        Constants per expert come from `params`, where it has them.
        """
        constants: list[Any] = []
        for name in ("alpha", "beta", "limit"):
            table = None if params is None else getattr(params, name)
            own = getattr(kind, name) or 0.0
            constants.append(own if table is None else self.plain(table)[owner, None])
        gate_up = self.cast(gate_up, self.type("activation"))
        return self.plain(activation.activate(gate_up, kind, *constants))

    def weighted(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Rows times their routing weight."""
        return rows * weights[:, None]

    def combine(self, down: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum as an op."""
        part = self.weighted(self.plain(down), self.plain(weights).reshape(-1)[rows])
        total = self.combined(self.rounded(part, "weighted"), rows, weights.shape)
        return self.stored(total, down.dtype)

    def combined(self, part: Tensor, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """routed [T, H] from weighted rows [R, H] of the slots `rows`; shape [T, k]."""
        tokens, choices = shape
        spread = part.new_zeros(tokens * choices, part.shape[1])
        spread[rows] = part
        spread = spread.reshape(tokens, choices, part.shape[1])
        if self.numerics.combine_order == "expert":
            place = torch.full((tokens * choices,), len(rows))
            place[rows] = torch.arange(len(rows))
            order = place.reshape(tokens, choices).argsort(dim=1, stable=True)
            spread = spread.gather(1, order[..., None].expand_as(spread))
        return self.total(spread)
