"""The expert that every token visits, and how the router may weight it."""

from __future__ import annotations

import torch

from oracle import bounds
from oracle.activation import activate
from oracle.experts import weight_tap
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import Layer, Shared
from oracle.trace import Tap


def shared_expert(
    layer: Layer,
    params: Params,
    x: Tap,
    tokens: Tap,
    gammas: Tap | None,
    numerics: Numerics,
    columns: torch.Tensor | None = None,
) -> Tap:
    """The shared expert's output [T, H], gated or weighted but not yet added.

    Shapes: x [T, H] as its GEMM sees it; tokens [T, H] as given (for the gate);
    gammas [T, count], the router's weights of the shared experts, or None.

    gated: times sigmoid(x . g) (Qwen2-MoE). weighted: the intermediate of shared expert
    j, columns j S / count and on, times gammas[:, j] (Inkling). The shared expert's own
    activation, where it has one, takes no per-expert parameters.

    Raises ValueError if the layer weights its shared experts and gammas is None.
    """
    shared = layer.shared
    assert shared is not None
    assert params.shared_gate_up is not None
    assert params.shared_down is not None
    gate_up = bounds.matmul(x, weight_tap(params.shared_gate_up, numerics), numerics)
    gate_up = bounds.rounded(gate_up, numerics.gate_up, numerics)
    hidden = activate(gate_up, shared.activation or layer.activation, numerics)
    if shared.combine == "weighted":
        if gammas is None:
            raise ValueError(
                f"shared_expert: layer {layer.name!r} weights its {shared.count} "
                "shared experts; give logits with routing.shared_logits columns"
            )
        width = shared.intermediate // shared.count
        spread = gammas.map(lambda t: t.repeat_interleave(width, dim=1))
        hidden = bounds.multiply(hidden, spread, numerics.activation, numerics)
    hidden = bounds.rounded(hidden, numerics.intermediate, numerics)
    down = bounds.matmul(
        hidden, weight_tap(params.shared_down, numerics, columns), numerics
    )
    down = bounds.rounded(down, numerics.down, numerics)
    if shared.combine == "gated":
        assert params.shared_gate is not None
        row = bounds.exactly(params.shared_gate.to(torch.float64)[None])
        gate = bounds.sigmoid(bounds.matmul(tokens, row, numerics), numerics)
        down = bounds.multiply(down, gate, "none", numerics)
    return bounds.rounded(down, numerics.shared, numerics)


def with_shared(
    routed: Tap, shared: Tap | None, description: Shared, numerics: Numerics
) -> Tap:
    """routed + shared, or their mean, or their sum over sqrt(2), as `combine` says.

    shared None: another rank adds it, and this one's part is scaled alike.
    """
    point = numerics.combine
    if shared is not None:
        routed = bounds.add(routed, shared, point, numerics)
    factor = {"average": 0.5, "rsqrt2": 0.5**0.5}.get(description.combine)
    if factor is None:
        return routed
    constant = bounds.constant(factor, routed, point)
    return bounds.multiply(routed, constant, point, numerics)
