"""FlashInfer's `cutlass_fused_moe`, from the GPUs of 2020 on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from oracle.params import Params
from oracle.spec import Activation, Layer
from refmoe.dropin.callers import check_axes
from refmoe.dropin.flashinfer.fits import check_rank, check_shapes
from refmoe.dropin.flashinfer.weights import weights_of
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.prepare import Prepared

#: FlashInfer's ActivationType by name: its numbers differ between releases.
ACTIVATIONS: dict[str, Activation] = {
    "Gelu": Activation("gelu_erf"), "Silu": Activation("silu"),
    "Swiglu": Activation(), "SwigluBias": Activation(),
    "SwigluStep": Activation(limit=7.0, clamp="after"),
    "Geglu": Activation("geglu_erf"), "GegluTanh": Activation("geglu_tanh"),
    "Relu2": Activation("relu2"), "Identity": Activation("identity"),
}  # fmt: skip

#: The least limit that is one: a value held to it is 0 in all but name.
_LEAST = 2.0**-149


def cutlass_fused_moe(
    input: torch.Tensor,
    token_selected_experts: torch.Tensor,
    token_final_scales: torch.Tensor | None,
    fc1_expert_weights: torch.Tensor,
    fc2_expert_weights: torch.Tensor,
    output_dtype: torch.dtype,
    quant_scales: Sequence[torch.Tensor] | None,
    fc1_expert_biases: torch.Tensor | None = None,
    fc2_expert_biases: torch.Tensor | None = None,
    input_sf: torch.Tensor | None = None,
    swiglu_alpha: torch.Tensor | None = None,
    swiglu_beta: torch.Tensor | None = None,
    swiglu_limit: torch.Tensor | None = None,
    tp_size: int = 1,
    tp_rank: int = 0,
    ep_size: int = 1,
    ep_rank: int = 0,
    cluster_size: int = 1,
    cluster_rank: int = 0,
    output: torch.Tensor | None = None,
    enable_alltoall: bool = False,
    use_deepseek_fp8_block_scale: bool = False,
    use_w4_group_scaling: bool = False,
    use_mxfp8_act_scaling: bool = False,
    min_latency_mode: bool = False,
    use_packed_weights: bool = False,
    use_wfp4afp8_humming: bool = False,
    tune_max_num_tokens: int = 8192,
    enable_pdl: bool | None = None,
    activation_type: object = "Swiglu",
    swizzled_input_sf: bool = True,
    use_fused_finalize: bool = True,
    profile_ids: Sequence[int] | None = None,
    workspace_buffer: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weighted sum of the chosen experts' MLPs, [T, H], rounded once.

    Shapes:
        input: fp16, bf16 or fp32 [T, H]; token_selected_experts: i32[T, k], ids of all
        ranks; token_final_scales: f32[T, k], None for 1
        swiglu_*: f32[E]; a limit of Inf is none, one of 0 leaves nothing
        fc1_expert_weights: [E, 2I, H], up rows before gate rows; fc2: [E, H, I];
        biases: [E, 2I], [E, H]; E experts of this rank
        quant_scales: by the type of the weights and the mode,
            weights of input's type: none
            int8: f32[E, 2I] and f32[E, H], a scale for each row
            e4m3, use_deepseek_fp8_block_scale: f32 scales of 128 x 128 tiles, x being
            quantised in groups of 128
            u8, use_w4_group_scaling: interleaved MXFP4 [E, 2I, H / 2] whose folded E8M0
            scales these are; I and H may be padded, H of `input` and of the result not
        activation_type: a member of ActivationType, or its name

    Sums are those of fp32, rounded to `output_dtype` (fp32, fp16 or bf16) at the end.
    Weights are one rank's: the `ep_rank`-th of `ep_size` runs of experts, and a run of
    I already cut, of which the first alone (`tp_rank` 0) adds fc2_expert_biases.
    `enable_alltoall` leaves it open what tokens without a local expert hold: zeros.
    tune_max_num_tokens, enable_pdl, swizzled_input_sf, use_fused_finalize and
    workspace_buffer decide nothing here: no call tunes, finalising is deterministic.

    Raises NotImplementedError for other modes and kinds of weights, ValueError and
    TypeError for tensors that do not fit.
    """
    only = {
        "input_sf": (input_sf, None), "profile_ids": (profile_ids, None),
        "cluster_size": (cluster_size, 1), "cluster_rank": (cluster_rank, 0),
        "min_latency_mode": (min_latency_mode, False),
        "use_mxfp8_act_scaling": (use_mxfp8_act_scaling, False),
        "use_packed_weights": (use_packed_weights, False),
        "use_wfp4afp8_humming": (use_wfp4afp8_humming, False),
    }  # fmt: skip
    for name, (given, default) in only.items():
        if given is not None if default is None else given != default:
            raise NotImplementedError(
                f"cutlass_fused_moe: {name}={given!r} has no kernel here; leave it at "
                f"{default!r}"
            )
    check_axes(
        "cutlass_fused_moe", 2, input=input, token_final_scales=token_final_scales,
        token_selected_experts=token_selected_experts,
    )  # fmt: skip
    check_axes(
        "cutlass_fused_moe", 3, fc1_expert_weights=fc1_expert_weights,
        fc2_expert_weights=fc2_expert_weights,
    )  # fmt: skip
    check_rank("tp", tp_rank, tp_size)
    check_rank("ep", ep_rank, ep_size)
    activation = _activation(activation_type)
    constants = {"alpha": swiglu_alpha, "beta": swiglu_beta, "limit": swiglu_limit}
    for name, tensor in constants.items():
        check_axes("cutlass_fused_moe", 1, **{f"swiglu_{name}": tensor})
        if activation.kind != "swiglu" and tensor is not None:
            raise ValueError(
                f"cutlass_fused_moe: activation_type={activation_type} has no {name}; "
                f"leave swiglu_{name} out, or take a Swiglu"
            )
    if output_dtype not in TYPES:
        raise TypeError(
            f"cutlass_fused_moe: output_dtype={output_dtype} has no kernel here; take "
            "float32, float16 or bfloat16"
        )
    weights, seen = weights_of(
        input.dtype, fc1_expert_weights, fc2_expert_weights, list(quant_scales or ()),
        use_w4_group_scaling, use_deepseek_fp8_block_scale,
    )  # fmt: skip
    local, width, depth = weights[0].shape
    tokens, hidden = input.shape
    padded = max(hidden, depth) if use_w4_group_scaling else hidden
    check_shapes(
        tokens, token_selected_experts.shape[1], padded, weights, quant_scales or (),
        gated=activation.gated, token_selected_experts=token_selected_experts,
        token_final_scales=token_final_scales, fc1_expert_biases=fc1_expert_biases,
        fc2_expert_biases=fc2_expert_biases, swiglu_alpha=swiglu_alpha,
        swiglu_beta=swiglu_beta, swiglu_limit=swiglu_limit,
    )  # fmt: skip
    layer = Layer(
        padded, width // (2 if activation.gated else 1), local * ep_size,
        token_selected_experts.shape[1], activation=activation,
        dtype=TYPES[input.dtype], activations=seen, requantize=seen,
        name="cutlass_fused_moe",
    )  # fmt: skip
    if hidden < padded:
        input = torch.nn.functional.pad(input, (0, padded - hidden))
    if token_final_scales is None:
        token_final_scales = torch.ones_like(token_selected_experts).float()
    down_bias = fc2_expert_biases if tp_rank == 0 else None
    if swiglu_limit is not None:
        # Params take 0 for no limit.
        swiglu_limit = swiglu_limit.float().clamp(min=_LEAST)
    # Packed ones too, which Params are not declared to hold.
    own: tuple[Any, Any] = weights
    params = Params(
        *own, fc1_expert_biases, down_bias, alpha=swiglu_alpha, beta=swiglu_beta,
        limit=swiglu_limit,
    )  # fmt: skip
    held = Prepared(*weights, fc1_expert_biases, down_bias, gate_first=False)
    made = experts(
        input, token_selected_experts, token_final_scales, params, layer,
        prepared=held, dtype=output_dtype,
        local=(ep_rank * local, (ep_rank + 1) * local) if ep_size > 1 else None,
    )[:, :hidden]  # fmt: skip
    if output is None:
        return made.contiguous()
    if output.shape != made.shape or output.dtype != output_dtype:
        raise ValueError(
            f"cutlass_fused_moe: output is {output.dtype} {tuple(output.shape)}; give "
            f"{output_dtype} {tuple(made.shape)}"
        )
    return output.copy_(made)


def _activation(given: object) -> Activation:
    """The activation of a member of ActivationType, or of its name."""
    name = getattr(given, "name", given)
    if name not in ACTIVATIONS:
        raise NotImplementedError(
            f"cutlass_fused_moe: activation_type={name!r} has no kernel here; give one "
            f"of {', '.join(ACTIVATIONS)}, or the member of that name"
        )
    return ACTIVATIONS[str(name)]
