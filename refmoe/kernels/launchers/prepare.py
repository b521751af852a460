"""Weights as the GEMMs read them, made once: as they are, or packed and padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad as extend

from oracle.params import Blocks, Params, Streamed, Weight
from oracle.spec import BlockFormat, Layer
from refmoe.kernels.launch import Kernel, blocks_for
from refmoe.kernels.launchers.operands import (
    Matrix,
    Packed,
    Packing,
    check_matrix,
)

_FILE = "prepare.cu"
#: Multiples of N and K that the interleaved layout needs.
_SM90 = (64, 128)


@dataclass(frozen=True, slots=True)
class Prepared:
    """Both weights and biases of the experts, in the order of rows that `gate_up` has.

    Shapes: gate_up: [E, 2I, H]; down: [E, H, I]; biases: [E, 2I], [E, H]; I and H may
    be padded
    """

    gate_up: Matrix
    down: Matrix
    gate_up_bias: torch.Tensor | None = None
    down_bias: torch.Tensor | None = None
    #: Whether `gate_up` has its gate rows before its up rows.
    gate_first: bool = True


def canonical(params: Params) -> Prepared:
    """The weights as they are; ValueError for streamed ones."""
    return Prepared(
        _held("gate_up", params.gate_up), _held("down", params.down),
        params.gate_up_bias, params.down_bias,
    )  # fmt: skip


def prepare(params: Params, layer: Layer) -> Prepared:
    """FP4 weights two codes a byte, which tensor cores read; others as they are."""
    packs = _is_fp4(params.gate_up) and _is_fp4(params.down)
    sizes = (layer.hidden, layer.intermediate)
    if not packs or any(size % 2 for size in sizes):
        return canonical(params)
    return pack(params, layer)


def pack(
    params: Params,
    layer: Layer,
    *,
    packing: Packing = "nibbles",
    multiple: int = 1,
    gate_first: bool = True,
) -> Prepared:
    """FP4 weights packed, their rows restacked and H and I raised to a multiple.

    With ``packing="nibbles_sm90"``, ``multiple=128`` and ``gate_first=False`` the bytes
    are those that FlashInfer's CUTLASS mixed-input MoE reads on Hopper. Padding holds
    code 0, scale 1 and bias 0.

    Raises ValueError for weights that are not FP4 in blocks of one row, and for sizes
    that the packing does not take.
    """
    gate_up, down = _held("gate_up", params.gate_up), _held("down", params.down)
    halves = 2 if layer.activation.gated else 1
    height, width = (
        -(-size // multiple) * multiple for size in (layer.intermediate, layer.hidden)
    )
    bias, down_bias = params.gate_up_bias, params.down_bias
    if bias is not None:
        parts = list(bias.chunk(halves, dim=1))
        parts = parts if gate_first else parts[::-1]
        more = (0, height - layer.intermediate)
        bias = torch.cat([extend(part, more) for part in parts], dim=1)
    if down_bias is not None:
        down_bias = extend(down_bias, (0, width - layer.hidden))
    return Prepared(
        _pack("gate_up", gate_up, halves, height, width, packing, gate_first),
        _pack("down", down, 1, width, height, packing, True), bias, down_bias,
        gate_first,
    )  # fmt: skip


def _pack(
    name: str, weight: Matrix, halves: int, rows: int, depth: int, packing: Packing,
    gate_first: bool,
) -> Packed:  # fmt: skip
    """One weight [E, halves * rows, depth]; `rows` and `depth` are padded."""
    if not isinstance(weight, Blocks) or not _is_fp4(weight):
        kind = weight.format.name if isinstance(weight, Blocks) else "plain"
        raise ValueError(
            f"prepare: {name} is {kind}; packing takes FP4 codes in blocks of one row"
        )
    check_matrix("prepare", name, weight, 3)
    form, device = weight.format, weight.codes.device
    sm90 = packing == "nibbles_sm90"
    block = form.block[1]
    needs = (_SM90[0], _SM90[1]) if sm90 else (1, max(block, 2))
    if sm90 and (form.scale, block) != ("e8m0", 32):
        raise ValueError(
            f"prepare: {form.name} cannot be interleaved; that layout holds mxfp4"
        )
    if halves * rows % needs[0] or depth % needs[1]:
        raise ValueError(
            f"prepare: {name} is {halves * rows} x {depth}, but packing={packing!r} "
            f"takes multiples of {needs[0]} x {needs[1]}; pad with multiple=128"
        )
    experts, old_rows, old_depth = weight.codes.shape
    across = depth // block
    codes = torch.empty(
        (experts, halves * rows, depth // 2), dtype=torch.uint8, device=device
    )
    scales = torch.empty(
        (experts, halves * rows, across), dtype=torch.uint8, device=device
    )
    common = (
        np.int32(old_rows // halves), np.int32(rows), np.int32(halves),
        np.int32(not gate_first),
    )  # fmt: skip
    count = codes.numel() // (4 if sm90 else 1)
    Kernel(_FILE, f"pack_codes<{str(sm90).lower()}>")(
        blocks_for(count, 256), 256, weight.codes, codes, count, *common,
        np.int32(old_depth), np.int32(depth), device=device,
    )  # fmt: skip
    one = 0x7F if form.scale == "e8m0" else 0x38
    Kernel(_FILE, f"pack_scales<{str(sm90).lower()}>")(
        blocks_for(scales.numel(), 256), 256, weight.scales, scales, scales.numel(),
        *common, np.int32(weight.scales.shape[-1]), np.int32(across), np.int32(one),
        device=device,
    )  # fmt: skip
    if sm90:
        shape = (experts, halves * rows // 64, across // 4, 16, 16)
        scales = scales.reshape(shape)
    return Packed(codes, scales, form, packing, weight.global_scale)


def _is_fp4(weight: Weight) -> bool:
    return isinstance(weight, Blocks) and _packs(weight.format)


def _packs(form: BlockFormat) -> bool:
    one_row = form.block[0] == 1 and form.block[1] > 0
    return form.element == "e2m1" and one_row and form.scale in ("e8m0", "e4m3")


def _held(name: str, weight: Weight) -> Matrix:
    if isinstance(weight, Streamed):
        raise ValueError(
            f"prepare: {name} is streamed; the kernels need all experts at once, load "
            "them into one tensor"
        )
    return weight
