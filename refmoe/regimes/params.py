"""The layer's tensors, drawn by a regime."""

from __future__ import annotations

from typing import Any

import torch

from oracle.params import Params
from refmoe.regimes.regime import Regime, Source, plain

#: Rows of the table that hash routing looks token ids up in.
VOCABULARY = 97


def router_params(source: Source, rule: Regime) -> Params:
    """Params of ops that see no weights, which then lie on the meta device."""
    layer = source.layer
    shape = (layer.experts, layer.gate_up_rows, layer.hidden)
    return Params(
        gate_up=torch.empty(shape, device="meta"),
        down=torch.empty(shape[0], shape[2], layer.intermediate, device="meta"),
        **_routing_params(source, rule),
    )


def _routing_params(source: Source, rule: Regime) -> dict[str, torch.Tensor]:
    layer, found = source.layer, {}
    if layer.routing.bias != "none":
        found["router_bias"] = plain(rule.router_bias(source), "fp32")
    if layer.routing.per_expert_scale:
        found["per_expert_scale"] = plain(rule.expert_scale(source), "fp32")
    if layer.routing.method == "hash":
        stream = source.stream("hash_table")
        table = stream.permutations(VOCABULARY, layer.routed_choices)
        found["hash_table"] = table[:, : layer.top_k].contiguous()
    return found


def layer_params(source: Source, rule: Regime) -> Params:
    """Every tensor that the case's layer has."""
    layer = source.layer
    e, h, i = layer.experts, layer.hidden, layer.intermediate
    found: dict[str, Any] = _routing_params(source, rule)
    found["gate_up"] = rule.weight(
        source, "gate_up", (e, layer.gate_up_rows, h), layer.weights
    )
    found["down"] = rule.weight(source, "down", (e, h, i), layer.weights)
    if layer.expert_bias:
        for name, shape in (
            ("gate_up_bias", (e, layer.gate_up_rows)),
            ("down_bias", (e, h)),
        ):
            found[name] = plain(rule.bias(source, name, shape), layer.dtype)
    if layer.shared is not None:
        columns = layer.shared.intermediate
        gated = (layer.shared.activation or layer.activation).gated
        rows = columns * (2 if gated else 1)
        # Shared experts stay in the layer's own type, as the released models have them.
        for name, size in (
            ("shared_gate_up", (rows, h)),
            ("shared_down", (h, columns)),
        ):
            found[name] = rule.weight(source, name, size, layer.dtype)
        if layer.shared.combine == "gated":
            row = rule.weight(source, "shared_gate", (1, h), layer.dtype)
            found["shared_gate"] = row[0]
    params = Params(**found)
    params.check(layer)
    return params
