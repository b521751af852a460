"""The activation between the GEMMs, plain or quantised on the way out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

import torch

from oracle.blocks import preset
from oracle.params import Blocks, Params
from oracle.spec import Activation, BlockFormat, Layer
from oracle.spec.activation import ActivationKind
from refmoe.kernels.launch import Kernel, aligned, blocks_for, check
from refmoe.kernels.launchers.formats import (
    ROUNDINGS,
    TYPES,
    Geometry,
    code_dtype,
    format_struct,
    kind,
    scale_dtype,
)
from refmoe.kernels.launchers.permute import IDS

_FILE, _THREADS = "activation.cu", 128
_VALUES = tuple(TYPES)
#: The enumerators of Curve, in the order of ActivationKind.
CURVES = {
    "swiglu": "kSwiglu", "geglu_tanh": "kGegluTanh", "geglu_erf": "kGegluErf",
    "softcap": "kSoftcap", "silu": "kSilu", "gelu_erf": "kGeluErf", "relu2": "kRelu2",
    "identity": "kIdentity",
}  # fmt: skip
#: struct Parameters of activation.cuh: alpha, beta and limit of each expert, then the
#: activation's own constants.
_TENSORS, _CONSTANTS = struct.Struct("<3Q"), struct.Struct("<5fi")


def activate(
    gate_up: torch.Tensor,
    params: Params,
    layer: Layer,
    expert: torch.Tensor | None,
    *,
    activation: Activation | None = None,
    weights: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    naive: bool = False,
) -> torch.Tensor:
    """The intermediate [R, I] of gate_up [R, 2I], gate first ([R, I] where ungated).

    Shapes: gate_up: bf16, fp16 or fp32; expert: i32 or i64 [R], the local expert of
    each row, read where `params` holds alpha, beta or limit; weights: f32[R], which
    multiply the intermediate where the layer weights it

    Every operation is one of fp32, the result is rounded to `dtype` (gate_up's where
    None). `activation` stands in for the layer's (a shared expert's own).

    Raises TypeError and ValueError for tensors that do not fit.
    """
    own = params if activation is None else None
    activation = activation or layer.activation
    return activate_rows(
        gate_up, activation, own, expert, weights=weights, dtype=dtype, naive=naive
    )


def activate_rows(
    gate_up: torch.Tensor,
    activation: Activation,
    constants: Params | None,
    expert: torch.Tensor | None,
    *,
    weights: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    naive: bool = False,
) -> torch.Tensor:
    """`activate` without a layer: `constants` has alpha, beta and limit, if any."""
    given = gate_up.dtype
    dtype = given if dtype is None else dtype
    rows, width, index, own = _checked(gate_up, activation, constants, expert, weights)
    if dtype not in TYPES:
        raise TypeError(f"activate: dtype={dtype}; take float32, bfloat16 or float16")
    device = gate_up.device
    out = torch.empty((rows, width), dtype=dtype, device=device)
    vector = 16 // max(given.itemsize, dtype.itemsize)
    if naive or width % vector or not aligned(16, gate_up):
        vector = 1
    _by_rows(given, dtype, activation.kind, vector, index)(
        (rows, blocks_for(width, _THREADS * vector)), _THREADS, gate_up, expert,
        weights, out, own, width, device=device,
    )  # fmt: skip
    return out


@lru_cache
def _by_rows(
    given: torch.dtype, dtype: torch.dtype, kind: ActivationKind, vector: int,
    index: str,
) -> Kernel:  # fmt: skip
    names = f"{TYPES[given]}, {TYPES[dtype]}, {CURVES[kind]}, {vector}, {index}"
    return Kernel(_FILE, f"activate_rows<{names}>")


def activate_quantize(
    gate_up: torch.Tensor,
    params: Params,
    layer: Layer,
    expert: torch.Tensor | None,
    format: BlockFormat | str,
    *,
    weights: torch.Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Blocks:
    """`quantize(activate(...))` in one pass: the intermediate never leaves the chip.

    Shapes: as `activate` -> codes [R, I], scales [R, I / block]

    The intermediate is rounded to `dtype` before it is quantised, so that the bytes are
    those of the two calls.

    Raises ValueError for formats whose blocks are not 8 to 256 columns of one row, a
    power of two that divides I, and for formats with a global scale.
    """
    format = preset(format) if isinstance(format, str) else format
    rows, width, index, own = _checked(
        gate_up, layer.activation, params, expert, weights
    )
    grid = Geometry.of("activate_quantize", torch.Size((rows, width)), format)
    if not fuses(format, width):
        raise ValueError(
            f"activate_quantize: blocks of {format.name} are {format.block} over "
            f"{width} columns; take one row of 8 to 256 columns, a power of two that "
            "divides them, or activate and quantise apart"
        )
    if not aligned(16, gate_up):
        raise ValueError(
            "activate_quantize: gate_up must start at a multiple of 16 bytes"
        )
    device = gate_up.device
    codes = torch.empty((rows, width), dtype=code_dtype(format), device=device)
    scales = torch.empty((rows, grid.across), dtype=scale_dtype(format), device=device)
    names = (
        TYPES[gate_up.dtype], TYPES[dtype], CURVES[layer.activation.kind],
        f"element::{format.element}", ROUNDINGS[format.rounding], kind(format),
        str(min(grid.block_columns // 8, 2)), index,
    )  # fmt: skip
    Kernel(_FILE, f"activate_quantize<{', '.join(names)}>")(
        (rows, blocks_for(width, 16 * _THREADS)), _THREADS, gate_up, expert, weights,
        codes, scales, own, format_struct(format, 1, grid.block_columns), width,
        device=device,
    )  # fmt: skip
    return Blocks(codes, scales, format)


def fuses(format: BlockFormat, width: int) -> bool:
    """Whether blocks of `format` over `width` columns lie on lanes of one warp."""
    columns = format.block[1] or width
    lanes = columns // 8
    whole = columns % 8 == 0 and 1 <= lanes <= 32 and not lanes & (lanes - 1)
    one_row = format.block[0] == 1 and not format.global_scale
    return one_row and whole and width % columns == 0


def _checked(
    gate_up: torch.Tensor, activation: Activation, constants: Params | None,
    expert: torch.Tensor | None, weights: torch.Tensor | None,
) -> tuple[int, int, str, bytes]:  # fmt: skip
    """Rows and width of the intermediate, the type of `expert`, struct Parameters."""
    check("activate", "gate_up", gate_up, _VALUES, (None, None))
    rows, columns = gate_up.shape
    device = gate_up.device
    if activation.gated and columns % 2:
        raise ValueError(
            f"activate: {columns} columns cannot hold a gate and an up half; give 2I"
        )
    tensors = constant_tensors(constants)
    for name, tensor in zip(("alpha", "beta", "limit"), tensors, strict=True):
        if tensor is not None:
            check("activate", name, tensor, (torch.float32,), (None,), device)
            if expert is None:
                raise ValueError(
                    "activate: params has alpha, beta or limit per expert; give "
                    "expert, that of each row"
                )
    if expert is not None:
        check("activate", "expert", expert, tuple(IDS), (rows,), device)
    if weights is not None:
        check("activate", "weights", weights, (torch.float32,), (rows,), device)
    width = columns // 2 if activation.gated else columns
    index = "i64" if expert is None else IDS[expert.dtype]
    return rows, width, index, parameters_struct(activation, tensors)


def constant_tensors(constants: Params | None) -> tuple[torch.Tensor | None, ...]:
    """alpha, beta and limit of every expert; None where the activation's own hold."""
    if constants is None:
        return None, None, None
    return constants.alpha, constants.beta, constants.limit


def parameters_struct(
    activation: Activation, tensors: Sequence[torch.Tensor | None]
) -> bytes:
    """struct Parameters: the activation's constants, and alpha, beta, limit f32[E]."""
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return _TENSORS.pack(*pointers) + _own_constants(activation)


@lru_cache
def _own_constants(activation: Activation) -> bytes:
    return _CONSTANTS.pack(
        activation.alpha, activation.beta, activation.limit or 0.0,
        activation.gate_cap, activation.up_cap, activation.clamp == "after",
    )  # fmt: skip
