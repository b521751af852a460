"""FlashInfer's `cutlass_fused_moe`, from the GPUs of 2020 on."""

from __future__ import annotations

from typing import Any

import torch

from oracle.blocks import preset
from oracle.params import Blocks, Params
from oracle.spec import Activation, BlockFormat, Layer
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.operands import Packed
from refmoe.kernels.launchers.prepare import Prepared

#: FlashInfer's ActivationType by name: its numbers differ between releases.
ACTIVATIONS: dict[str, Activation] = {
    "Gelu": Activation("gelu_erf"), "Silu": Activation("silu"),
    "Swiglu": Activation(), "SwigluBias": Activation(),
    "SwigluStep": Activation(limit=7.0, clamp="after"),
    "Geglu": Activation("geglu_erf"), "GegluTanh": Activation("geglu_tanh"),
    "Relu2": Activation("relu2"), "Identity": Activation("identity"),
}  # fmt: skip
#: Arguments that may be left at their default only.
_UNSUPPORTED: dict[str, Any] = {
    "input_sf": None, "cluster_size": 1, "cluster_rank": 0, "enable_alltoall": False,
    "use_mxfp8_act_scaling": False, "min_latency_mode": False,
    "use_packed_weights": False, "use_wfp4afp8_humming": False,
}  # fmt: skip


def cutlass_fused_moe(
    input: torch.Tensor,
    token_selected_experts: torch.Tensor,
    token_final_scales: torch.Tensor,
    fc1_expert_weights: torch.Tensor,
    fc2_expert_weights: torch.Tensor,
    output_dtype: torch.dtype,
    quant_scales: list[torch.Tensor] | None,
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
    *,
    output: torch.Tensor | None = None,
    use_deepseek_fp8_block_scale: bool = False,
    use_w4_group_scaling: bool = False,
    activation_type: object = "Swiglu",
    **others: Any,
) -> torch.Tensor:
    """The weighted sum of the chosen experts' MLPs, [T, H] of `output_dtype`.

    Shapes:
        input: fp16 or bf16 [T, H]; token_selected_experts: i32[T, k], ids of all ranks
        token_final_scales: f32[T, k]; swiglu_*: f32[E]; biases: [E, 2I], [E, H]
        fc1_expert_weights: [E, 2I, H], up rows before gate rows; fc2: [E, H, I]
        activation_type: a member of ActivationType, or its name
        quant_scales: none for fp16 and bf16 weights; with use_w4_group_scaling the
        folded E8M0 scales of interleaved MXFP4 weights u8[E, 2I, H / 2], both padded;
        with use_deepseek_fp8_block_scale the fp32 scales of E4M3 weights in 128 x 128
        tiles, x being quantised in groups of 128

    Weights are those of one rank: of `ep_size` runs of experts, and of `tp_size` runs
    of I already cut. Arguments of tuning and launching have no effect.

    Raises NotImplementedError for other kinds of weights and for modes that are not
    listed here, ValueError and TypeError for tensors that do not fit.
    """
    for name, default in _UNSUPPORTED.items():
        given = input_sf if name == "input_sf" else others.get(name, default)
        if given is not default and given != default:
            raise NotImplementedError(
                f"cutlass_fused_moe: {name}={given!r} has no kernel here; leave it at "
                f"{default!r}"
            )
    kind = getattr(activation_type, "name", activation_type)
    activation = ACTIVATIONS.get(str(kind))
    if activation is None:
        raise NotImplementedError(
            f"cutlass_fused_moe: activation_type={kind!r} has no kernel here; give one "
            f"of {', '.join(ACTIVATIONS)}, or the member of that name"
        )
    plain: str | BlockFormat = TYPES.get(input.dtype, "bf16")
    seen = plain
    up, down = fc1_expert_weights, fc2_expert_weights
    # Packed ones too, which Params are not declared to hold.
    weights: tuple[Any, Any] = (up, down)
    if use_w4_group_scaling:
        form = preset("mxfp4")
        scales = [_bytes(scale) for scale in quant_scales or ()]
        _count("use_w4_group_scaling", scales, 2)
        weights = (
            Packed(_bytes(up), _folded(up, scales[0]), form, "nibbles_sm90"),
            Packed(_bytes(down), _folded(down, scales[1]), form, "nibbles_sm90"),
        )
    elif use_deepseek_fp8_block_scale:
        form, seen = preset("fp8_block_128"), preset("fp8_group_128")
        scales = list(quant_scales or ())
        _count("use_deepseek_fp8_block_scale", scales, 2)
        weights = (Blocks(_bytes(up), scales[0], form),
                   Blocks(_bytes(down), scales[1], form))  # fmt: skip
    elif quant_scales:
        raise NotImplementedError(
            f"cutlass_fused_moe: {len(quant_scales)} quant_scales without a mode that "
            "names them; set use_w4_group_scaling or use_deepseek_fp8_block_scale"
        )
    local, hidden = up.shape[0], input.shape[1]
    width = up.shape[1] // (2 if activation.gated else 1)
    padded = use_w4_group_scaling
    layer = Layer(
        down.shape[1] if padded else hidden, width, local * ep_size,
        token_selected_experts.shape[1], activation=activation, dtype=str(plain),
        weights=plain, activations=seen, requantize=seen, name="cutlass_fused_moe",
    )  # fmt: skip
    if padded and hidden != layer.hidden:
        input = torch.nn.functional.pad(input, (0, layer.hidden - hidden))
    params = Params(
        weights[0], weights[1], fc1_expert_biases, fc2_expert_biases,
        alpha=swiglu_alpha, beta=swiglu_beta, limit=swiglu_limit,
    )  # fmt: skip
    held = Prepared(*weights, fc1_expert_biases, fc2_expert_biases, gate_first=False)
    first = ep_rank * local
    made = experts(
        input, token_selected_experts, token_final_scales, params, layer,
        prepared=held, local=(first, first + local) if ep_size > 1 else None,
    )  # fmt: skip
    made = made[:, :hidden].to(output_dtype)
    return made.contiguous() if output is None else output.copy_(made)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _folded(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Folded scales as [E, N / 64, K / 128, 16, 16], however their axes are grouped."""
    experts, rows, packed = weight.shape
    return scales.reshape(experts, rows // 64, packed // 64, 16, 16)


def _count(mode: str, scales: list[torch.Tensor], count: int) -> None:
    if len(scales) != count:
        raise ValueError(
            f"cutlass_fused_moe: {mode} takes {count} quant_scales; there are "
            f"{len(scales)}"
        )
