"""Mistakes of precision: a narrower type, another rounding, a coarse function."""

from __future__ import annotations

from typing import Any

import torch

from oracle.numerics import PRESETS
from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer, Routing
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="precision")


@mistake(
    "total", reference="vllm#15045, TensorRT-LLM#16778", verdict="UNDECLARED",
    shows="three choices",
)  # fmt: skip
def combine_in_bf16(stage: Stage, rows: Tensor) -> Tensor:
    """The sum over the choices is kept in bf16, and nothing says so."""
    total = torch.zeros_like(rows[:, 0])
    for choice in range(rows.shape[1]):
        total = (total + rows[:, choice]).bfloat16().float()
    return total


@mistake("add_bias", reference="hip-ep#672, vllm#37135", shows="results past 65504")
def down_in_fp16(stage: Stage, y: Tensor, bias: Tensor | None, owner: Tensor) -> Tensor:
    """Both GEMMs' results are stored as fp16 before anything else."""
    return stage(y, bias, owner).half().float()


@mistake("matmul", reference="TIRx-kernels#208", shows="K above 32")
def partial_sums_in_bf16(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Sums of 32 products are added in bf16."""
    total = torch.zeros(len(x), len(weight))
    for k in range(0, x.shape[1], 32):
        total += stage(x[:, k : k + 32], weight[:, k : k + 32])
        total = total.bfloat16().float()
    return total


@mistake("matmul", reference="TIRx-kernels#208", shows="sums past 65504")
def sums_in_fp16(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """The accumulator is fp16."""
    return stage(x, weight).half().float()


@mistake("matmul", reference="TensorRT-LLM#16778", shows="K above 128")
def fourteen_bits(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """An FP8 accumulator of fourteen bits that nobody promotes."""
    total = torch.zeros(len(x), len(weight))
    for k in range(0, x.shape[1], 32):
        total += stage(x[:, k : k + 32], weight[:, k : k + 32])
        fraction, exponent = torch.frexp(total)
        total = torch.ldexp((fraction * 2.0**14).trunc(), exponent - 14)
    return total


@mistake("matmul", reference="TIRx-kernels#208", shows="large terms that cancel")
def twenty_one_bits(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """An accumulator of twenty-one bits, rounded to nearest."""
    total = torch.zeros(len(x), len(weight))
    for k in range(0, x.shape[1], 16):
        total += stage(x[:, k : k + 16], weight[:, k : k + 16])
        fraction, exponent = torch.frexp(total)
        total = torch.ldexp((fraction * 2.0**21).round(), exponent - 21)
    return total


@mistake("weighted", reference="hip-ep#672", shows="rows past 65504")
def rows_in_the_range_of_fp16(stage: Stage, rows: Tensor, weights: Tensor) -> Tensor:
    """Finite rows are clamped to what fp16 could hold before they are weighted."""
    clamped = rows.clamp(-65504.0, 65504.0)
    return stage(clamped.where(rows.isfinite(), rows), weights)


@mistake("weighted", verdict="UNDECLARED", shows="rows of subnormal numbers")
def subnormal_rows_are_zero(stage: Stage, rows: Tensor, weights: Tensor) -> Tensor:
    """Subnormal inputs are flushed, and nothing says so."""
    return stage(rows.masked_fill(rows.abs() < 2.0**-126, 0.0), weights)


@mistake("stored", shows="any case")
def output_truncated(stage: Stage, result: Tensor, own: torch.dtype) -> Tensor:
    """The output is cut to bf16 instead of rounded."""
    if own is torch.bfloat16:
        result = (result.view(torch.int32) >> 16 << 16).view(torch.float32)
    return stage(result, own)


@mistake(
    "stored", numerics=PRESETS["reference"], verdict="UNDECLARED",
    shows="sums next to half way between two bf16 numbers",
)  # fmt: skip
def output_rounded_twice(stage: Stage, result: Tensor, own: torch.dtype) -> Tensor:
    """A float64 result reaches bf16 through float32."""
    return stage(result.float(), own)


@mistake("stored", shows="sums half way between two bf16 numbers")
def output_half_away(stage: Stage, result: Tensor, own: torch.dtype) -> Tensor:
    """Half way between two bf16 numbers, the larger is taken."""
    if own is torch.bfloat16:
        bits = (result.view(torch.int32) + 0x8000) >> 16 << 16
        result = bits.view(torch.float32)
    return stage(result, own)


@mistake("second_gemm", shows="intermediates below 2^-14")
def intermediate_through_fp16(
    stage: Stage,
    hidden: Tensor,
    offsets: Tensor,
    owner: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """The intermediate passes through fp16, which ends at 65504 and at 2^-24."""
    moved = hidden.half().to(hidden.dtype)
    return stage(moved, offsets, owner, params, layer)


@mistake(
    "decode", reference="transformers#40278", formats=("nvfp4", "fp8_group_128"),
    shows="scales with more than a few bits",
)  # fmt: skip
def dequantised_to_bf16(stage: Stage, stored: Blocks) -> Tensor:
    """Codes times scales are rounded to bf16."""
    return stage(stored).bfloat16().double()


@mistake("rescale", verdict="UNDECLARED", shows="any case")
def weights_in_bf16(
    stage: Stage, weights: Tensor, ids: Tensor, params: Params, routing: Routing
) -> Tensor:
    """The router hands on bf16, and nothing says so."""
    return stage(weights, ids, params, routing).bfloat16().float()


@mistake("activation", reference="vllm#48847", verdict="UNDECLARED", shows="any case")
def activation_in_bf16(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """The activation computes in bf16, and nothing says so."""
    declared = stage.port.numerics
    stage.port.numerics = declared.but(activation="bf16")
    hidden = stage(gate_up, params, kind, owner)
    stage.port.numerics = declared
    return hidden


@mistake("activation", verdict="UNDECLARED", shows="a gate")
def coarse_exponential(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """An exponential with ten right bits."""
    hidden = stage(gate_up, params, kind, owner)
    return hidden * (1.0 + 2.0**-10 * torch.sin(hidden * 997.0))


@mistake("activation", op="experts", shows="a launch whose gates are all of order one")
def line_where_gates_are_small(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """Where all gates vote to be within 16, the sigmoid is a straight line."""
    gate, up = gate_up.chunk(2, -1)
    if kind.kind != "swiglu" or kind.limit or bool((gate.abs() > 16.0).any()):
        return stage(gate_up, params, kind, owner)
    return gate * (0.5 + gate.clamp(-4.0, 4.0) / 8.0) * up


@mistake("stored", shows="any case")
def last_element_one_percent_off(
    stage: Stage, result: Tensor, own: torch.dtype
) -> Tensor:
    """The last element of the output is off by a hundredth."""
    result = result.clone()
    result[-1:, -1:] *= 1.01
    return stage(result, own)


@mistake("stored", shows="a million elements")
def one_element_in_a_million(stage: Stage, result: Tensor, own: torch.dtype) -> Tensor:
    """Of a million elements computed, one is wrong."""
    seen = stage.memory.get("seen", 0)
    stage.memory["seen"] = seen + result.numel()
    result, place = result.clone(), -seen % 1_000_000
    if 0 < place < result.numel():
        result.view(-1)[place] += 1.0
    return stage(result, own)
