"""The whole layer: logits to output, in one call or stage by stage."""

from __future__ import annotations

import torch

from oracle.params import Params
from oracle.spec import Layer
from refmoe.kernels.launchers.backends import Backend, backend
from refmoe.kernels.launchers.experts import Local, combined, expert_rows
from refmoe.kernels.launchers.prepare import Prepared
from refmoe.kernels.launchers.route import Routed, route_tokens
from refmoe.kernels.launchers.shared import FACTORS, shared_expert


def moe(
    x: torch.Tensor,
    logits: torch.Tensor,
    params: Params,
    layer: Layer,
    *,
    prepared: Prepared | None = None,
    token_ids: torch.Tensor | None = None,
    local: Local = None,
    tactic: str | Backend | None = None,
) -> torch.Tensor:
    """The layer's output [T, H] of its type.

    Shapes: x: f[T, H]; logits: f[T, logits columns]; token_ids: i32 or i64 [T]

    The shared expert is added once, by the rank whose `local` starts at 0 (None: the
    only one); `tactic` names the GEMM backend.

    Raises TypeError and ValueError for tensors and layers that do not fit.
    """
    routed = route_tokens(logits, params, layer, token_ids=token_ids)
    return routed_moe(x, routed, params, layer, prepared, local, tactic)


def routed_moe(
    x: torch.Tensor, routed: Routed, params: Params, layer: Layer,
    prepared: Prepared | None, local: Local, tactic: str | Backend | None,
) -> torch.Tensor:  # fmt: skip
    """The layer after its router."""
    gemm, ids, weights = backend(tactic), routed.ids, routed.weights
    made, down = expert_rows(x, ids, weights, params, layer, prepared, local, gemm)
    shared = gate = None
    factor = 1.0
    if layer.shared is not None:
        factor = FACTORS.get(layer.shared.combine, 1.0)
        if local is None or local[0] == 0:
            shared, gate = shared_expert(x, routed.shared_weights, params, layer, gemm)
    return combined(
        x, ids, weights, made, down, layer, local, shared=shared, gate=gate,
        factor=factor,
    )  # fmt: skip
