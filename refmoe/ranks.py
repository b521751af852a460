"""One rank's part of a layer: some of the experts, or a run of the intermediate."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.layouts.padding import pad, unpad
from oracle.params import Params
from oracle.shard import expert_parallel, tensor_parallel
from oracle.spec import Layer
from refmoe.case import Case, rank_of
from refmoe.views import mapped

#: Columns that a shard's intermediate is padded to a multiple of.
TILE = 64


def of_rank(
    case: Case, layer: Layer, params: Params
) -> tuple[Layer, Params, tuple[int, int] | None]:
    """The layer and params that the case's rank holds, and its range of experts.

    `local`: the layer stays whole, params hold the rank's experts alone. `shard`: I is
    the rank's part, raised to a multiple of TILE by zeros; the layer of any rank but 0
    has no shared expert, and its bias of down is zero.

    Raises ValueError where the layer does not divide so.
    """
    if case.local is not None:
        rank, size = rank_of(case.local)
        part = expert_parallel(layer, params, size)[rank]
        return layer, mapped(part.params, torch.clone), part.local
    if case.shard is None:
        return layer, params, None
    rank, size = rank_of(case.shard)
    part = tensor_parallel(layer, params, size)[rank]
    params, cut = pad(part.params, part.layer, TILE)
    params, cut = unpad(params, cut, layer.hidden, cut.intermediate)
    if part.replicated:
        return cut, params, None
    if layer.routing.zero_experts:
        raise ValueError(
            f"case: shard={case.shard} would hand x on in every rank, for the "
            f"{layer.routing.zero_experts} identity experts; use local"
        )
    if layer.shared is not None and layer.shared.combine in ("average", "rsqrt2"):
        raise ValueError(
            f"case: shard={case.shard} has no shared expert to combine by "
            f"{layer.shared.combine!r}; use local"
        )
    bare = replace(params, shared_gate_up=None, shared_down=None, shared_gate=None)
    return replace(cut, shared=None), bare, None
