"""The expert that every token visits, and how the router may weight it."""

from __future__ import annotations

import torch

from oracle import bounds
from oracle.activation import activate
from oracle.experts import weight_tap
from oracle.numerics import Numerics
from oracle.operands import operand, scale_runs
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer, Shared
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

    A GEMM with block-scaled weights sees its operand quantised, as those of the routed
    experts do (DeepSeek-V3 `linear`: act_quant before every fp8_gemm).

    gated: times sigmoid(x . g) (Qwen2-MoE). weighted: the intermediate of shared expert
    j, columns j S / count and on, times gammas[:, j] (Inkling). The shared expert's own
    activation, where it has one, takes no per-expert parameters.

    Raises ValueError if the layer weights its shared experts and gammas is None.
    """
    shared = layer.shared
    assert shared is not None
    assert params.shared_gate_up is not None
    assert params.shared_down is not None
    gate_up = _linear(x, params.shared_gate_up, layer.activations, numerics)
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
    if quantised(params.shared_down, layer.requantize):
        assert isinstance(layer.requantize, BlockFormat)
        scale = params.intermediate_scale
        hidden, _ = operand("h", hidden, layer.requantize, scale, {}, numerics)
    down = _linear(hidden, params.shared_down, layer.requantize, numerics, columns)
    down = bounds.rounded(down, numerics.down, numerics)
    if shared.combine == "gated":
        assert params.shared_gate is not None
        row = bounds.exactly(params.shared_gate.to(torch.float64)[None])
        gate = bounds.sigmoid(bounds.matmul(tokens, row, numerics), numerics)
        down = bounds.multiply(down, gate, "none", numerics)
    return bounds.rounded(down, numerics.shared, numerics)


def quantised(weight: torch.Tensor | Blocks, form: str | BlockFormat) -> bool:
    """Whether a GEMM with this weight of the shared expert sees quantised operands."""
    return isinstance(weight, Blocks) and isinstance(form, BlockFormat)


def unweighted(
    layer: Layer, params: Params, x: torch.Tensor, numerics: Numerics
) -> Tap:
    """x [T, H] quantised, where the routed experts see it weighted first."""
    tokens, form = bounds.exactly(x), layer.activations
    if isinstance(form, str):
        return bounds.rounded(tokens, form, numerics)
    return operand("x", tokens, form, params.x_scale, {}, numerics)[0]


def _linear(
    x: Tap,
    weight: torch.Tensor | Blocks,
    form: str | BlockFormat,
    numerics: Numerics,
    columns: torch.Tensor | None = None,
) -> Tap:
    """x weight^T, x quantised to `form` where the weight is block-scaled."""
    runs = 1
    if isinstance(weight, Blocks):
        runs = scale_runs(x.value.shape[1], numerics, form, weight.format)
    tap = weight_tap(weight, numerics, columns)
    return bounds.matmul(x, tap, numerics, blocks=runs)


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
