"""The layer's tensors, drawn by a regime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks, Params, Weight
from refmoe.case import block_format
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
        **(own_constants(source) if source.case.constants == "own" else {}),
        intermediate_scale=_calibrated(source),
    )


def _calibrated(source: Source) -> torch.Tensor | None:
    """The global scale that a quantised intermediate is given, where it has one."""
    case = source.case
    if case.op != "activate+quantize" or not block_format(case).global_scale:
        return None
    return torch.tensor(0.15625)


def _routing_params(source: Source, rule: Regime) -> dict[str, torch.Tensor]:
    layer, found = source.layer, {}
    if layer.routing.bias != "none":
        dtype = source.case.bias_dtype or "fp32"
        found["router_bias"] = plain(rule.router_bias(source), dtype)
    if layer.routing.per_expert_scale:
        found["per_expert_scale"] = plain(rule.expert_scale(source), "fp32")
    if layer.routing.method == "hash":
        stream = source.stream("hash_table")
        table = stream.permutations(VOCABULARY, layer.routed_choices)
        found["hash_table"] = table[:, : layer.top_k].contiguous()
    return found


def own_constants(source: Source) -> dict[str, torch.Tensor]:
    """alpha, beta and limit of each expert, as far as its activation takes them.

    A limit is 0 (off), 1/2, 1, 2 or 7; neighbouring experts have different ones.
    """
    activation, experts = source.layer.activation, source.layer.experts
    if activation.kind not in ("swiglu", "geglu_tanh", "geglu_erf"):
        return {}
    expert = torch.arange(experts)

    def each(name: str, values: tuple[float, ...]) -> torch.Tensor:
        start = source.stream(name).integers((1,), 0, len(values) - 1)
        return torch.tensor(values)[(start + expert) % len(values)]

    found = {
        "beta": each("beta", (0.0, 1.0, 0.25)),
        "limit": each("limit", (1.0, 0.0, 7.0, 0.5, 2.0)),
    }
    if activation.kind == "swiglu":
        found["alpha"] = each("alpha", (1.0, 1.75, 0.5))
    return found


def _own_scales(source: Source, name: str, weight: Weight) -> Weight:
    """Blocks whose global scales, where there are any, differ by powers of two."""
    if not isinstance(weight, Blocks) or weight.global_scale is None:
        return weight
    step = source.stream(f"{name}/own").integers((1,), 0, 2)
    expert = torch.arange(len(weight.global_scale))
    factor = torch.tensor((0.5, 1.0, 2.0))[(step + expert) % 3]
    return replace(weight, global_scale=weight.global_scale * factor)


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
            dtype = source.case.bias_dtype or layer.dtype
            found[name] = plain(rule.bias(source, name, shape), dtype)
    if source.case.constants == "own":
        found |= own_constants(source)
        for name in ("gate_up", "down"):
            found[name] = _own_scales(source, name, found[name])
    if layer.shared is not None:
        columns = layer.shared.intermediate
        gated = (layer.shared.activation or layer.activation).gated
        rows = columns * (2 if gated else 1)
        form = layer.shared.weights or layer.dtype
        for name, size in (
            ("shared_gate_up", (rows, h)),
            ("shared_down", (h, columns)),
        ):
            found[name] = rule.weight(source, name, size, form)
        if layer.shared.combine == "gated":
            row = rule.weight(source, "shared_gate", (1, h), layer.dtype)
            found["shared_gate"] = row[0]
    params = Params(**found)
    params.check(layer)
    return params
