"""FlashInfer's `cutlass_fused_moe`, and the port ``refmoe.dropin:flashinfer`` of it.

The port lays weights out as FlashInfer has them, by the oracle's layouts, and tells the
call by its own arguments what a case is. Its `moe` routes first.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from oracle.layouts.gate_up import arrange
from oracle.layouts.nibbles import pack
from oracle.layouts.padding import pad
from oracle.layouts.sm90_mixed import interleave_scales, interleave_weights
from oracle.params import Blocks, Params, Weight
from oracle.spec import Activation, BlockFormat, Layer
from refmoe.case import Case, rank_of
from refmoe.dropin.flashinfer.fused import cutlass_fused_moe
from refmoe.dropin.layers import beyond_the_experts
from refmoe.kernels.launchers.route import route
from refmoe.kernels.port import declares, numerics
from refmoe.supports import Supports

__all__ = [
    "batch_invariant", "cutlass_fused_moe", "declares", "deterministic", "device",
    "experts", "graph_safe", "moe", "name", "numerics", "prepare", "supports",
]  # fmt: skip

name, device = "refmoe.dropin:flashinfer", "cuda"
deterministic = batch_invariant = graph_safe = True

_PLAIN = ("bf16", "fp16", "fp32")
#: The flag that goes with a format of weights (none: it shows in their type), and what
#: x becomes, where it does not keep its type.
_MODES: dict[str, tuple[str, str]] = {
    "int8_channel": ("", ""),
    "int8_token": ("", ""),
    "mxfp4": ("use_w4_group_scaling", ""),
    "fp8_block_128": ("use_deepseek_fp8_block_scale", "fp8_group_128"),
}
_ACTIVATIONS = {
    "swiglu": "Swiglu", "geglu_erf": "Geglu", "geglu_tanh": "GegluTanh",
    "silu": "Silu", "gelu_erf": "Gelu", "relu2": "Relu2", "identity": "Identity",
}  # fmt: skip


def prepare(params: Params, layer: Layer) -> dict[str, Any]:
    """The arguments of `cutlass_fused_moe` that are the same for all tokens."""
    activation, weights = layer.activation, _called(layer.weights)
    flag = _MODES[weights][0] if weights in _MODES else ""
    if flag == "use_w4_group_scaling":
        params, layer = pad(params, layer, 128)
    bias = params.gate_up_bias
    if bias is not None and activation.gated:
        bias = arrange(bias, "up_gate", -1)
    up, up_scales = _stored(params.gate_up, flag, up_first=activation.gated)
    down, down_scales = _stored(params.down, flag)
    constants = _constants(params, activation, up)
    kind = _ACTIVATIONS[activation.kind]
    if constants:
        kind = "SwigluStep" if activation.clamp == "after" else "SwigluBias"
    found = {
        "fc1_expert_weights": up, "fc2_expert_weights": down,
        "quant_scales": [*up_scales, *down_scales],
        "fc1_expert_biases": bias, "fc2_expert_biases": params.down_bias,
        "activation_type": kind, **constants,
    }  # fmt: skip
    return {**found, flag: True} if flag else found


def experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, params: Params,
    layer: Layer, *, prepared: dict[str, Any], local: tuple[int, int] | None = None,
) -> torch.Tensor:  # fmt: skip
    """The op `experts`; a rank of experts is the one of that place among equal ones."""
    start, stop = local or (0, layer.experts)
    return cutlass_fused_moe(
        x, ids.int(), weights.float(), output_dtype=x.dtype, **prepared,
        ep_size=layer.experts // (stop - start), ep_rank=start // (stop - start),
        enable_alltoall=local is not None,
    )  # fmt: skip


def moe(
    x: torch.Tensor, logits: torch.Tensor, params: Params, layer: Layer, *,
    prepared: dict[str, Any], token_ids: torch.Tensor | None = None,
    local: tuple[int, int] | None = None,
) -> torch.Tensor:  # fmt: skip
    """The op `moe`, of a layer without a shared expert."""
    ids, weights = route(logits, params, layer, token_ids=token_ids)
    return experts(x, ids, weights, params, layer, prepared=prepared, local=local)


def _stored(
    weight: Weight, flag: str, *, up_first: bool = False
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A weight as FlashInfer has it, and its scales."""
    if isinstance(weight, torch.Tensor):
        return (arrange(weight, "up_gate") if up_first else weight), []
    assert isinstance(weight, Blocks)
    codes, scales = weight.codes, weight.scales
    if up_first:
        codes, scales = arrange(codes, "up_gate"), arrange(scales, "up_gate")
    if flag == "use_w4_group_scaling":
        return interleave_weights(pack(codes)), [interleave_scales(scales)]
    if flag == "use_deepseek_fp8_block_scale":
        return codes.view(torch.float8_e4m3fn), [scales]
    return codes, [scales[..., 0]]


def _constants(
    params: Params, activation: Activation, weight: torch.Tensor
) -> dict[str, torch.Tensor]:
    """alpha, beta and limit of each expert, if any does anything; no limit is Inf."""
    neutral = (activation.alpha, activation.beta, activation.limit or 0.0) == (1, 0, 0)
    own = any(c is not None for c in (params.alpha, params.beta, params.limit))
    if activation.kind != "swiglu" or (neutral and not own):
        return {}
    every = torch.ones(len(weight), device=weight.device)
    alpha = every * activation.alpha if params.alpha is None else params.alpha
    beta = every * activation.beta if params.beta is None else params.beta
    limit = every * (activation.limit or 0.0) if params.limit is None else params.limit
    limit = torch.where(limit > 0, limit, math.inf)
    return {"swiglu_alpha": alpha, "swiglu_beta": beta, "swiglu_limit": limit}


def _called(form: str | BlockFormat) -> str:
    return form if isinstance(form, str) else form.name


def _inexpressible(case: Case) -> str | None:
    """What the arguments of `cutlass_fused_moe` cannot say of a case."""
    layer, weights = case.layer, _called(case.layer.weights)
    if weights in _PLAIN and weights != layer.dtype:
        return f"weights={weights}; plain weights have the type of x, {layer.dtype}"
    seen = (weights in _MODES and _MODES[weights][1]) or layer.dtype
    for stage in ("activations", "requantize"):
        given = _called(getattr(layer, stage))
        if given != seen:
            return f"{stage}={given}; beside weights={weights} it is {seen}"
    own = layer.activation
    if own.kind != "swiglu":
        if own.kind not in _ACTIVATIONS:
            return f"activation.kind={own.kind} is no ActivationType"
        if own.limit or own.beta or case.constants == "own":
            return f"activation.kind={own.kind} takes no limit and no beta"
    if case.local is not None and layer.experts % rank_of(case.local)[1]:
        return f"local={case.local}: {layer.experts} experts are no equal ranks"
    return beyond_the_experts(case)


supports = Supports(
    dtypes=_PLAIN, weights=(*_PLAIN, *_MODES), activations=(*_PLAIN, "fp8_group_128"),
    memory=("contiguous", "offset"), whole_blocks=True, also=_inexpressible,
)  # fmt: skip
