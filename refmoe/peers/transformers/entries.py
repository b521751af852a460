"""What the entries of the table share: sizes, widths of shared experts, rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oracle.spec import Layer, Routing
from refmoe.peers.transformers.block import Derived

#: Logits in the dtype of x, then fp32 up to the weights ...
FP32_ROUTER = {"router": "fp32"}
#: ... or with the weights ...
FP32_WEIGHTS = {"router": "fp32", "weights": "fp32"}
#: ... or from the logits on.
FP32_LOGITS = {"logits": "fp32", "router": "fp32", "weights": "fp32"}


def tiny(name: str, routing: Routing, **changes: Any) -> Layer:
    """A layer of 8 experts, 3 of them chosen, hidden 16, intermediate 8."""
    return replace(Layer(16, 8, 8, 3), name=name, routing=routing, **changes)


def sizes(
    intermediate: str = "moe_intermediate_size",
    experts: str = "num_experts",
    top_k: str = "num_experts_per_tok",
) -> dict[str, str | Derived]:
    """The config fields of the four sizes."""
    return {
        "hidden_size": "hidden",
        intermediate: "intermediate",
        experts: "experts",
        top_k: "top_k",
    }


def _count(layer: Layer) -> int:
    assert layer.shared is not None
    return layer.shared.intermediate // layer.intermediate


#: How many experts of the routed ones' width make up the shared expert.
COUNT: Derived = ("shared.intermediate", _count)


def same_shared(layer: Layer) -> str | None:
    """The shared expert is as wide as a routed one: the same config field."""
    assert layer.shared is not None
    if layer.shared.intermediate != layer.intermediate:
        return (
            f"shared.intermediate={layer.shared.intermediate}; it must equal "
            f"intermediate={layer.intermediate}"
        )
    return None


def whole_shared(layer: Layer) -> str | None:
    """The shared expert is a whole number of routed experts wide."""
    assert layer.shared is not None
    if layer.shared.intermediate % layer.intermediate:
        return (
            f"shared.intermediate={layer.shared.intermediate}; it must be a multiple "
            f"of intermediate={layer.intermediate}"
        )
    return None


def weighted_shared(layer: Layer) -> str | None:
    """Each routed expert's width of the shared one has a logit of its own."""
    assert layer.shared is not None
    if whole_shared(layer):
        return whole_shared(layer)
    if not _count(layer) == layer.shared.count == layer.routing.shared_logits:
        return f"shared.count={layer.shared.count}; it must be {_count(layer)}"
    return None


def paired_groups(layer: Layer) -> str | None:
    """A group's score is the sum of two of its experts."""
    size = layer.experts // layer.routing.groups
    if size < 2:
        return f"groups of {size} expert; each must have at least 2"
    return whole_shared(layer) if layer.shared else None
