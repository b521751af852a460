"""What a router refuses."""

from __future__ import annotations

import torch

from oracle.params import Params
from oracle.spec import Layer


def check(
    logits: torch.Tensor,
    layer: Layer,
    params: Params,
    token_ids: torch.Tensor | None,
) -> None:
    """Raise TypeError or ValueError for the first thing that does not fit."""
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        kind = getattr(logits, "dtype", type(logits).__name__)
        raise TypeError(f"route: logits are {kind}; give a float tensor")
    if logits.ndim != 2 or logits.shape[1] != layer.logits_columns:
        raise ValueError(
            f"route: logits have shape {tuple(logits.shape)}; the layer {layer.name!r} "
            f"needs [T, {layer.logits_columns}]"
        )
    _check_method(layer)
    routing, choices = layer.routing, layer.routed_choices
    if routing.bias != "none":
        _check_vector(params.router_bias, "router_bias", choices)
    if routing.per_expert_scale:
        _check_vector(params.per_expert_scale, "per_expert_scale", choices)
    if routing.method == "hash":
        _check_hash(len(logits), layer, params, token_ids)


def _check_method(layer: Layer) -> None:
    """Methods that the layer's sizes do not allow."""
    routing = layer.routing
    if routing.method == "sparsemixer" and layer.top_k != 2:
        raise ValueError(
            f"route: sparsemixer has two rounds, but top_k={layer.top_k}; give 2"
        )
    if routing.method == "sparsemixer" and routing.bias == "selection":
        raise ValueError(
            "route: sparsemixer compares the logits alone, but bias='selection'; use "
            "'none' or 'logits'"
        )
    if routing.method == "sparsemixer" and routing.shared_logits:
        raise ValueError(
            "route: sparsemixer's weights are not normalised together with shared "
            f"experts, but shared_logits={routing.shared_logits}; give 0"
        )
    if routing.method != "topk" and routing.groups > 1:
        raise ValueError(
            f"route: {routing.method} knows no groups, but groups={routing.groups}; "
            "give 1"
        )
    if routing.shared_logits and routing.score == "softmax":
        raise ValueError(
            f"route: shared_logits={routing.shared_logits} and a softmax are undefined "
            "together; use a score of each logit alone (sigmoid, sqrtsoftplus)"
        )
    if routing.groups == routing.top_groups:
        return
    if routing.zero_experts:
        raise ValueError(
            f"route: zero_experts={routing.zero_experts} belong to no group; use "
            f"groups=1 instead of {routing.groups}"
        )
    size = layer.experts // routing.groups
    if routing.group_score == "top2" and size < 2:
        raise ValueError(
            f"route: group_score='top2' needs 2 experts in a group, but groups="
            f"{routing.groups} leave {size}; use fewer groups or 'max'"
        )


def _check_vector(tensor: torch.Tensor | None, name: str, length: int) -> None:
    if tensor is None:
        raise ValueError(f"route: Params.{name} is missing; the routing declares it")
    if not tensor.is_floating_point():
        raise TypeError(f"route: Params.{name} is {tensor.dtype}; give floats")
    if tuple(tensor.shape) != (length,):
        raise ValueError(
            f"route: Params.{name} has shape {tuple(tensor.shape)}; give ({length},)"
        )


def _check_hash(
    tokens: int, layer: Layer, params: Params, token_ids: torch.Tensor | None
) -> None:
    table = params.hash_table
    if table is None:
        raise ValueError("route: Params.hash_table is missing; hash routing reads it")
    if table.ndim != 2 or table.shape[1] != layer.top_k:
        raise ValueError(
            f"route: Params.hash_table has shape {tuple(table.shape)}; give "
            f"[vocabulary, {layer.top_k}]"
        )
    if token_ids is None:
        raise ValueError("route: token_ids are missing; hash routing looks them up")
    for name, tensor in (("token_ids", token_ids), ("Params.hash_table", table)):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise TypeError(f"route: {name} are {tensor.dtype}; give integers")
    if tuple(token_ids.shape) != (tokens,):
        raise ValueError(
            f"route: token_ids have shape {tuple(token_ids.shape)}; give ({tokens},)"
        )
    bad = (token_ids < 0) | (token_ids >= len(table))
    if bool(bad.any()):
        raise ValueError(
            f"route: token id {int(token_ids[bad][0])} is outside the table's "
            f"0..{len(table) - 1}"
        )


def look_up(
    layer: Layer, params: Params, token_ids: torch.Tensor | None
) -> torch.Tensor:
    """The rows i64[T, k] of the hash table; an expert may stand twice in one.

    Raises ValueError for an entry that is no expert.
    """
    assert params.hash_table is not None
    assert token_ids is not None
    rows = token_ids.to(params.hash_table.device, torch.int64)
    ids = params.hash_table[rows].to(token_ids.device, torch.int64)
    bad = (ids < 0) | (ids >= layer.routed_choices)
    if bool(bad.any()):
        raise ValueError(
            f"route: Params.hash_table holds id {int(ids[bad][0])}, outside "
            f"0..{layer.routed_choices - 1}"
        )
    return ids
