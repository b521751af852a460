"""The kernels as a port: ops under the protocol's names, and what the port declares."""

from __future__ import annotations

from typing import Any

import torch

from oracle.blocks import preset
from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from refmoe.kernels.launch import aligned
from refmoe.kernels.launchers import activate as activation
from refmoe.kernels.launchers import dequantize as dequantizing
from refmoe.kernels.launchers.activate import activate
from refmoe.kernels.launchers.backends import CAPTURED, grouped_gemm, names
from refmoe.kernels.launchers.combine import combine
from refmoe.kernels.launchers.experts import DTYPES, experts
from refmoe.kernels.launchers.grouped import grouped_quantize
from refmoe.kernels.launchers.moe import FORMS, moe
from refmoe.kernels.launchers.omni import (
    omni_experts,
    omni_route,
    omni_route_backward,
)
from refmoe.kernels.launchers.permute import permute
from refmoe.kernels.launchers.prepare import prepare
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.route import route
from refmoe.kernels.paths import on_arch
from refmoe.protocol import OPS
from refmoe.supports import Supports

__all__ = [
    "activate", "activate_quantize", "alignment", "batch_invariant", "combine",
    "declares", "dequantize", "deterministic", "device", "experts", "graph_safe",
    "grouped_gemm", "grouped_quantize", "moe", "name", "numerics", "omni_experts",
    "omni_route", "omni_route_backward", "on_arch", "permute", "prepare", "quantize",
    "route", "stable", "supports", "tactics",
]  # fmt: skip

#: Ops that take a GEMM backend.
MULTIPLYING = ("grouped_gemm", "experts", "moe")

name = "refmoe.kernels"
device = "cuda"
stable = deterministic = batch_invariant = True
alignment = 1
#: Libraries get an expert's rows by offsets that are read back; how many rows `permute`
#: returns is read back as well.
graph_safe = (*(op for op in OPS if op != "permute"), *CAPTURED, *FORMS, *DTYPES)

#: fp32 throughout, sums over the choices in their order, each result rounded once.
numerics = Numerics(combine_order="slot")


def activate_quantize(
    gate_up: torch.Tensor, params: Params, layer: Layer, expert: torch.Tensor,
    format: BlockFormat,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Codes and scales of the intermediate: in one pass where a warp holds a block."""
    width, dtype = gate_up.shape[1], DTYPES[layer.dtype]
    width //= 2 if layer.activation.gated else 1
    if activation.fuses(format, width) and aligned(16, gate_up):
        made = activation.activate_quantize(
            gate_up, params, layer, expert, format, dtype=dtype
        )
    else:
        hidden = activate(gate_up, params, layer, expert, dtype=dtype)
        made = quantize(hidden, format, global_scale=params.intermediate_scale)
    return made.codes, made.scales


def dequantize(blocks: Blocks, *, tactic: str = "fp32") -> torch.Tensor:
    """The values that blocks stand for, rounded once to the type `tactic`."""
    return dequantizing.dequantize(blocks, dtype=DTYPES[tactic])


def declares(layer: Layer) -> tuple[Layer, Numerics]:
    """The layer as it is; the intermediate has the layer's type."""
    return layer, numerics.but(intermediate=layer.dtype)


def tactics(case: Any) -> tuple[str, ...]:
    """The GEMM backends, where an op multiplies, and the forms of the whole layer.

    For the op dequantize, the types of values.
    """
    if case.op == "dequantize":
        return "fp32", "bf16", "fp16"
    if case.op == "moe":
        return (*names(), *forms(case.layer))
    return names() if case.op in MULTIPLYING else ()


def forms(layer: Layer) -> tuple[str, ...]:
    """Those of FORMS that the layer's x allows: where its rows may travel alone."""
    form = layer.activations
    if isinstance(form, str) or layer.weight_on == "input":
        return FORMS
    if form.block[0] > 1:
        return FORMS[:1]
    return FORMS if form.block[0] == 1 and not form.global_scale else FORMS[:2]


def _also(case: Any) -> bool | str:
    """Whether the kernels take a case of contiguous tensors: True, or why not."""
    if case.op not in ("permute", "dequantize") and case.layer.dtype == "fp64":
        return "the kernels compute in fp32: no float64"
    if case.op == "grouped_quantize":
        format = case.format or "mxfp8_e4m3"
        form = format if isinstance(format, BlockFormat) else preset(format)
        if form.block[0] != 1:
            return f"blocks of {form.name} span rows {form.block}"
    if case.op in ("experts", "moe") and case.layer.weight_on != "output":
        if case.layer.routing.zero_experts:
            return f"identity experts with the weight on the {case.layer.weight_on}"
    return True


supports = Supports(memory=("contiguous", "offset"), also=_also)
