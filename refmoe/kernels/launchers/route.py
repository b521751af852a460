"""Routing: the description of the router as a struct, and which kernel takes it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import torch

from oracle.params import Params
from oracle.spec import Layer, Routing
from oracle.spec.routing import Renormalize, Score
from refmoe.kernels.launch import Kernel, blocks_for, check
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.permute import IDS

#: The enumerators of Score, in the order of its names.
SCORES = {
    "softmax": "kSoftmax", "sigmoid": "kSigmoid", "sqrtsoftplus": "kSqrtSoftplus",
    "identity": "kIdentityScore",
}  # fmt: skip
_METHODS = ("topk", "sparsemixer", "hash")
_BIASES = ("none", "selection", "logits")
_LOGITS = tuple(TYPES)
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
#: What one warp takes: columns, of groups too, and slots, groups and shared columns.
_WARP_COLUMNS, _GROUPED_COLUMNS, _WARP = 1024, 256, 32

#: struct Router of route.cuh: bias, per-expert scale, hash table, token ids and the
#: table's rows, then what depends on the layer and the types alone.
_TENSORS, _RULES = struct.Struct("<4Qq"), struct.Struct("<16i5f4x")


@dataclass(frozen=True, slots=True)
class Routed:
    """What a router hands on.

    Shapes: ids i32[T, k]; weights f32[T, k]; shared_weights f32[T, shared logits]
    """

    ids: torch.Tensor
    weights: torch.Tensor
    shared_weights: torch.Tensor


def route(
    logits: torch.Tensor,
    params: Params,
    layer: Layer,
    *,
    token_ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ids i32[T, k] and weights f32[T, k]; see `route_tokens`."""
    routed = route_tokens(logits, params, layer, token_ids=token_ids)
    return routed.ids, routed.weights


def route_tokens(
    logits: torch.Tensor,
    params: Params,
    layer: Layer,
    *,
    token_ids: torch.Tensor | None = None,
    naive: bool = False,
) -> Routed:
    """Choose and weight every token's experts as `layer.routing` says, in fp32.

    Shapes: logits: bf16, fp16 or fp32 [T, layer.logits_columns]; token_ids: i32 or
    i64 [T], for hash routing

    Ties go to the lowest index, -0 equals +0, NaN comes after -inf: the ids are top_k
    distinct indices in range for any bits. Weights follow the formula, NaN included. A
    token or an entry outside the hash table gets id -1 and weight 0: nothing is raised
    from the device.

    Raises TypeError and ValueError for tensors and methods that do not fit.
    """
    check("route", "logits", logits, _LOGITS, (None, layer.logits_columns))
    _check_method(layer)
    router = _router(logits, params, layer, token_ids)
    routing, tokens, device = layer.routing, logits.shape[0], logits.device
    k, columns = layer.top_k, logits.shape[1]
    ids = torch.empty((tokens, k), dtype=torch.int32, device=device)
    weights = torch.empty((tokens, k), dtype=torch.float32, device=device)
    shape = (tokens, routing.shared_logits)
    shared = torch.empty(shape, dtype=torch.float32, device=device)
    grouped = routing.groups != routing.top_groups
    widest = _GROUPED_COLUMNS if grouped else _WARP_COLUMNS
    fits = columns <= widest and k <= _WARP and routing.groups <= _WARP
    if (
        naive or not fits or routing.shared_logits > _WARP
        or routing.method == "sparsemixer"
    ):  # fmt: skip
        scratch = torch.empty((tokens, columns, 4), dtype=torch.float32, device=device)
        Kernel("route_naive.cu", f"route_naive<{TYPES[logits.dtype]}>")(
            blocks_for(tokens, 64), 64, logits, tokens, ids, weights, shared, scratch,
            router, device=device,
        )  # fmt: skip
    else:
        _by_warps(logits.dtype, routing.score, columns)(
            blocks_for(tokens, 4), 128, logits, tokens, ids, weights, shared, router,
            device=device,
        )  # fmt: skip
    return Routed(ids, weights, shared)


@lru_cache
def _by_warps(dtype: torch.dtype, score: Score, columns: int) -> Kernel:
    per_lane = 1 << (blocks_for(columns, _WARP) - 1).bit_length()
    names = f"{TYPES[dtype]}, {SCORES[score]}, {per_lane}"
    return Kernel("route.cu", f"route_warps<{names}>")


def compares_logits(routing: Routing) -> bool:
    """Whether top-k sees the logits, and only the chosen ones are scored."""
    return routing.method == "sparsemixer" or routing.order == "topk_then_score"


def _check_method(layer: Layer) -> None:
    """Raise ValueError for what the methods do not define."""
    routing = layer.routing
    if routing.method == "sparsemixer" and layer.top_k != 2:
        raise ValueError(
            f"route: sparsemixer has two rounds, but top_k={layer.top_k}; give 2"
        )
    if routing.method == "sparsemixer" and routing.bias == "selection":
        raise ValueError("route: sparsemixer takes no selection bias; use bias='none'")
    if routing.shared_logits and routing.score == "softmax":
        raise ValueError(
            f"route: shared_logits={routing.shared_logits} need a score of each logit "
            "alone; use sigmoid, sqrtsoftplus or identity"
        )
    if routing.groups == routing.top_groups:
        return
    if routing.method != "topk" or routing.zero_experts:
        raise ValueError(
            f"route: groups={routing.groups} go with method='topk' and without zero "
            "experts; use groups=1"
        )
    if routing.group_score == "top2" and layer.experts // routing.groups < 2:
        raise ValueError(
            f"route: group_score='top2' needs 2 experts in a group; groups="
            f"{routing.groups} leave {layer.experts // routing.groups}"
        )


def _router(
    logits: torch.Tensor, params: Params, layer: Layer, token_ids: torch.Tensor | None
) -> bytes:
    """struct Router, its tensors checked."""
    routing, choices, device = layer.routing, layer.routed_choices, logits.device
    bias = scale = table = None
    if routing.bias != "none":
        bias = _given(params.router_bias, "router_bias", layer)
        check("route", "router_bias", bias, _FLOATS, (choices,), device)
    if routing.per_expert_scale:
        scale = _given(params.per_expert_scale, "per_expert_scale", layer)
        check("route", "per_expert_scale", scale, _FLOATS, (choices,), device)
    if routing.method == "hash":
        table = _given(params.hash_table, "hash_table", layer)
        check("route", "hash_table", table, tuple(IDS), (None, layer.top_k), device)
        if token_ids is None:
            raise ValueError("route: token_ids are missing; hash routing looks them up")
        check("route", "token_ids", token_ids, tuple(IDS), (logits.shape[0],), device)
    pointers = (bias, scale, table, token_ids if table is not None else None)
    types = (_float_type(bias), _float_type(scale), _wide(table), _wide(token_ids))
    rows = 0 if table is None else len(table)
    places = [0 if tensor is None else tensor.data_ptr() for tensor in pointers]
    return _TENSORS.pack(*places, rows) + _rules(routing, choices, layer.top_k, types)


def _given(tensor: torch.Tensor | None, name: str, layer: Layer) -> torch.Tensor:
    """A tensor that the layer declares; ValueError where it is missing."""
    if tensor is None:
        raise ValueError(
            f"route: Params.{name} is missing; the layer {layer.name!r} declares it"
        )
    return tensor


@lru_cache(maxsize=1024)
def _rules(
    routing: Routing, choices: int, top_k: int, types: tuple[int, int, int, int]
) -> bytes:
    return _RULES.pack(
        choices, routing.shared_logits, top_k, get_args(Score).index(routing.score),
        _METHODS.index(routing.method), int(compares_logits(routing)),
        _BIASES.index(routing.bias), get_args(Renormalize).index(routing.renormalize),
        routing.groups, routing.top_groups, int(routing.group_score == "top2"),
        int(routing.masked_fill == "zero"), *types, routing.epsilon,
        routing.scale if routing.scale_on == "weights" else 1.0, routing.logits_scale,
        routing.softcap or 0.0, routing.jitter,
    )  # fmt: skip


def _float_type(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else _FLOATS.index(tensor.dtype)


def _wide(tensor: torch.Tensor | None) -> int:
    return int(tensor is not None and tensor.dtype == torch.int64)
