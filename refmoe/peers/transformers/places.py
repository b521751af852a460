"""Where the canonical parameters go in transformers' blocks, and in which layout."""

from __future__ import annotations

from operator import attrgetter

import torch

from oracle.layouts.gate_up import arrange
from oracle.params import Params
from oracle.spec import Layer
from refmoe.peers.transformers.block import Place


def given(name: str) -> Place:
    """The field `name` of Params as it is."""

    def place(params: Params, layer: Layer) -> torch.Tensor:
        tensor: torch.Tensor = attrgetter(name)(params)
        return tensor

    return place


def half(name: str, index: int) -> Place:
    """The gate rows (0) or the up rows (1) of a fused field."""

    def place(params: Params, layer: Layer) -> torch.Tensor:
        tensor: torch.Tensor = getattr(params, name)
        return tensor.chunk(2, dim=-2)[index]

    return place


def transposed(name: str, *, interleaved: bool = False) -> Place:
    """[E, in, out] of a field, gate and up columns alternating where `interleaved`."""

    def place(params: Params, layer: Layer) -> torch.Tensor:
        tensor: torch.Tensor = getattr(params, name)
        return (arrange(tensor, "interleaved") if interleaved else tensor).mT

    return place


def interleaved_bias(params: Params, layer: Layer) -> torch.Tensor:
    """gate_up_bias [E, 2I] with gate and up alternating."""
    assert params.gate_up_bias is not None
    return arrange(params.gate_up_bias, "interleaved", axis=-1)


def row(name: str) -> Place:
    """A vector as a matrix of one row."""

    def place(params: Params, layer: Layer) -> torch.Tensor:
        tensor: torch.Tensor = getattr(params, name)
        return tensor[None]

    return place


def split(place: Place) -> Place:
    """Rows of all shared experts [S, H] as [count, S / count, H]."""

    def apart(params: Params, layer: Layer) -> torch.Tensor:
        assert layer.shared is not None
        rows = place(params, layer)
        return rows.reshape(layer.shared.count, -1, rows.shape[-1])

    return apart


def split_columns(params: Params, layer: Layer) -> torch.Tensor:
    """shared_down [H, S] as [count, H, S / count]."""
    assert layer.shared is not None
    assert isinstance(params.shared_down, torch.Tensor)
    rows = len(params.shared_down)
    return params.shared_down.reshape(rows, layer.shared.count, -1).movedim(1, 0)


def padded(params: Params, layer: Layer) -> torch.Tensor:
    """gate_up with rows of zeros for identity experts, which hold memory but no use."""
    assert isinstance(params.gate_up, torch.Tensor)
    zeros = params.gate_up.new_zeros(
        layer.routing.zero_experts, *params.gate_up.shape[1:]
    )
    return torch.cat([params.gate_up, zeros])


def flat(place: Place) -> Place:
    """[E, N, K] as [E * N, K]."""

    def joined(params: Params, layer: Layer) -> torch.Tensor:
        return place(params, layer).flatten(0, 1)

    return joined


EXPERTS = {
    "experts.gate_up_proj": given("gate_up"),
    "experts.down_proj": given("down"),
}
BIAS = {"gate.e_score_correction_bias": given("router_bias")}


def shared(prefix: str) -> dict[str, Place]:
    """A shared expert of three linear layers at `prefix`."""
    return {
        f"{prefix}.gate_proj.weight": half("shared_gate_up", 0),
        f"{prefix}.up_proj.weight": half("shared_gate_up", 1),
        f"{prefix}.down_proj.weight": given("shared_down"),
    }
