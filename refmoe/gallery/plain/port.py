"""The plain port: every op of the protocol, made of stages that a variant replaces."""

from __future__ import annotations

import torch

from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from refmoe.gallery.plain.arithmetic import TYPES, Tensor
from refmoe.gallery.plain.experts import Experts, renumbered
from refmoe.gallery.plain.omni import Omni
from refmoe.gallery.plain.router import Router


class Plain(Router, Experts, Omni):
    """A layer computed as `numerics` declares, one stage a method.

    Public methods that are no op are stages. They call each other through the instance,
    so that an attribute of the same name takes a stage's place.
    """

    device = "cpu"
    stable = True
    taps = (
        "scores", "ids", "weights", "rows", "offsets", "gate_up", "intermediate",
        "down", "shared",
    )  # fmt: skip

    def __init__(self, numerics: Numerics | None = None, name: str = "plain") -> None:
        super().__init__(numerics or Numerics())
        self.name = name

    def moe(
        self,
        x: Tensor,
        logits: Tensor,
        params: Params,
        layer: Layer,
        *,
        token_ids: Tensor | None = None,
        local: tuple[int, int] | None = None,
        taps: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The whole layer."""
        taps = {} if taps is None else taps
        ids, weights, gammas = self.routing(logits, params, layer, token_ids, taps)
        ids = renumbered(ids, layer, local)
        out = self.routed(x, ids, weights, params, layer, taps)
        if layer.shared is not None:
            if local is None or local[0] == 0:
                taps["shared"] = self.shared(x, params, layer, gammas)
                out = self.rounded(out + taps["shared"], "combine")
            factor = {"average": 0.5, "rsqrt2": 0.5**0.5}.get(layer.shared.combine, 1.0)
            out = out if factor == 1.0 else self.rounded(out * factor, "combine")
        return self.stored(out, TYPES[layer.dtype])

    def experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        params: Params,
        layer: Layer,
        *,
        local: tuple[int, int] | None = None,
        taps: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The routed part for given ids and weights."""
        taps = {} if taps is None else taps
        weights = self.plain(weights)
        ids = renumbered(ids, layer, local)
        total = self.routed(x, ids, weights, params, layer, taps)
        return self.stored(total, TYPES[layer.dtype])

    def routed(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        params: Params,
        layer: Layer,
        taps: dict[str, Tensor],
    ) -> Tensor:
        """The weighted sum of the experts' MLPs, routed scale included [T, H]."""
        rows, offsets = self.permute(ids, layer)
        # Of a rank's experts, where params hold those alone.
        offsets = offsets[: params.gate_up.shape[0] + 1]
        owner, own = ids.reshape(-1)[rows].long(), weights.reshape(-1)[rows]
        gate_up = self.first_gemm(x, rows, offsets, owner, own, params, layer)
        gate_up = self.rounded(gate_up, "gate_up")
        hidden = self.activation(gate_up, params, layer.activation, owner)
        if layer.weight_on == "intermediate":
            hidden = self.rounded(self.weighted(hidden, own), "activation")
        hidden = self.cast(hidden, self.type("intermediate"))
        down = self.second_gemm(hidden, offsets, owner, params, layer)
        down = self.rounded(down, "down")
        taps |= {"rows": rows, "offsets": offsets, "gate_up": gate_up}
        taps |= {"intermediate": hidden, "down": down}
        if layer.routing.zero_experts:
            down, rows = self.with_identity(down, rows, x, ids, weights, layer)
        if layer.weight_on == "output":
            down = self.weighted(down, weights.reshape(-1)[rows])
            down = self.rounded(down, "weighted")
        total = self.combined(down, rows, weights.shape)
        if layer.routing.scale_on == "sum":
            total = self.rescale_sum(total, layer.routing.scale)
        return total

    def first_gemm(
        self,
        x: Tensor,
        rows: Tensor,
        offsets: Tensor,
        owner: Tensor,
        own: Tensor,
        params: Params,
        layer: Layer,
    ) -> Tensor:
        """GEMM1 with its bias, over x weighted first where the weight is on it."""
        tokens = rows // layer.top_k
        if layer.weight_on == "input":
            moved = self.weighted(self.plain(x)[tokens], own)
            moved = self.rounded(moved, "weighted")
            moved = self.seen(moved, layer.activations, params.x_scale)
        else:
            moved = self.seen(x, layer.activations, params.x_scale)[tokens]
        y = self.gemm(moved, params.gate_up, offsets)
        return self.add_bias(y, params.gate_up_bias, owner)

    def second_gemm(
        self,
        hidden: Tensor,
        offsets: Tensor,
        owner: Tensor,
        params: Params,
        layer: Layer,
    ) -> Tensor:
        """GEMM2 with its bias."""
        moved = self.plain(hidden)
        if isinstance(layer.requantize, BlockFormat):
            moved = self.seen(hidden, layer.requantize, params.intermediate_scale)
        y = self.gemm(moved, params.down, offsets)
        return self.add_bias(y, params.down_bias, owner)

    def with_identity(
        self,
        down: Tensor,
        rows: Tensor,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        layer: Layer,
    ) -> tuple[Tensor, Tensor]:
        """The rows of experts that hand x on, behind the others."""
        slots = (ids.reshape(-1) >= layer.experts).nonzero().reshape(-1)
        handed = self.plain(x)[slots // layer.top_k]
        if layer.weight_on != "output":
            handed = self.weighted(handed, weights.reshape(-1)[slots])
            handed = self.rounded(handed, "weighted")
        return torch.cat([down, handed]), torch.cat([rows, slots])

    def rescale_sum(self, total: Tensor, scale: float) -> Tensor:
        """The routed scale where it stands on the sum."""
        return total if scale == 1.0 else self.rounded(total * scale, "combine")

    def shared(self, x: Tensor, params: Params, layer: Layer, gammas: Tensor) -> Tensor:
        """The shared expert [T, H]: gated, or weighted by the router's gammas."""
        shared = layer.shared
        assert shared is not None
        up, back = params.shared_gate_up, params.shared_down
        tokens = self.plain(x)
        if isinstance(up, Blocks):
            tokens = self.seen(x, layer.activations, params.x_scale)
        gate_up = self.product(tokens, self.unpacked(up))
        kind = shared.activation or layer.activation
        hidden = self.activation(self.rounded(gate_up, "gate_up"), None, kind, None)
        if shared.combine == "weighted":
            width = shared.intermediate // shared.count
            hidden = hidden * gammas.repeat_interleave(width, dim=1)
        hidden = self.rounded(hidden, "intermediate")
        if isinstance(back, Blocks) and isinstance(layer.requantize, BlockFormat):
            hidden = self.seen(hidden, layer.requantize, params.intermediate_scale)
        y = self.rounded(self.product(hidden, self.unpacked(back)), "down")
        if shared.combine == "gated" and params.shared_gate is not None:
            gate = self.product(self.plain(x), self.plain(params.shared_gate)[None])
            y = y * gate.sigmoid()
        return self.rounded(y, "shared")
