"""The whole layer, logits to output: in few passes, or from parts."""

from __future__ import annotations

import torch

from oracle.params import Params
from oracle.spec import Layer
from refmoe.kernels.foresight import foreseen
from refmoe.kernels.launchers.backends import Backend, backend
from refmoe.kernels.launchers.experts import Local, combined, expert_rows, through
from refmoe.kernels.launchers.modular import dispatch
from refmoe.kernels.launchers.prepare import Prepared
from refmoe.kernels.launchers.route import route_tokens
from refmoe.kernels.launchers.shared import FACTORS, shared_expert

#: How the layer is put together: GEMMs that find rows of x themselves; dispatch,
#: experts and finalise apart; the same with x quantised by the experts.
FORMS = ("monolithic", "modular", "modular_late")


@foreseen
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
    only one). `tactic` names one of FORMS, the GEMM backend, or both: "modular:naive".

    Raises TypeError and ValueError for tensors and layers that do not fit.
    """
    form, gemm = _parts(tactic)
    routed = route_tokens(logits, params, layer, token_ids=token_ids)
    ids, weights = routed.ids, routed.weights
    if form == "monolithic":
        made, down = expert_rows(x, ids, weights, params, layer, prepared, local, gemm)
    else:
        late = form == "modular_late"
        sent = dispatch(x, ids, weights, params, layer, local, late=late)
        made, rows = sent.made, sent.rows
        down = through(rows, made.starts, sent.weights, params, layer, prepared, gemm)
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


def _parts(tactic: str | Backend | None) -> tuple[str, Backend]:
    """The form of the layer and the GEMM backend that a tactic names."""
    form, gemm = FORMS[0], tactic
    if isinstance(tactic, str) and tactic.partition(":")[0] in FORMS:
        form, _, name = tactic.partition(":")
        gemm = name or None
    return form, backend(gemm)
