"""What no drop-in for the experts can be told: parts of a layer that it lacks."""

from __future__ import annotations

from refmoe.case import Case


def beyond_the_experts(case: Case) -> str | None:
    """Why the experts' MLPs, weighted on their output and summed, are not the layer."""
    layer, routing = case.layer, case.layer.routing
    if layer.weight_on != "output":
        return f"weight_on={layer.weight_on}; weights meet the output alone"
    if routing.zero_experts:
        return f"routing.zero_experts={routing.zero_experts}; ids are those of experts"
    if routing.scale_on == "sum" and routing.scale != 1.0:
        return f"routing.scale={routing.scale} of the sum; it has no argument"
    if case.op == "moe" and layer.shared is not None:
        return "shared experts are no part of the call"
    return None
