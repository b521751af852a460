"""One grouped GEMM with what follows it, and the naive kernel that does any of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from oracle.params import Params
from oracle.spec import Activation
from refmoe.kernels.launch import Kernel, blocks_for, check
from refmoe.kernels.launchers.activate import (
    CURVES,
    constant_tensors,
    parameters_struct,
)
from refmoe.kernels.launchers.formats import TYPES, Struct
from refmoe.kernels.launchers.operands import (
    SCALES,
    Matrix,
    Packed,
    check_matrix,
    device_of,
    operand_struct,
)
from refmoe.kernels.launchers.permute import IDS

#: struct Job of grouped.cuh.
_JOB = np.dtype(
    [(name, "u8") for name in ("offsets", "slots", "bias", "weights")]
    + [(name, "i8") for name in ("rows", "width", "w_rows", "gate", "up")]
    + [(name, "i4") for name in (
        "offsets_wide", "experts", "choices", "bias_type", "out_type", "per_row",
        "span", "padding",
    )]
)  # fmt: skip
_THREADS = 128


@dataclass(frozen=True, slots=True)
class Gemm:
    """y[r] = act(x[source of r] w[e]^T + bias[e]) * weight, for the rows r of expert e.

    Shapes:
        x: [X, K] plain or blocks; w: [E, N, K], which may be padded along N and K
        offsets: i32 or i64 [E + 1]; slots: i32[R], rows[r] = t * choices + j takes row
        t of x, None: row r itself (R = X)
        bias: [E, N]; weights: f32, `per_row` for each slot (or row), each for an equal
        run of the columns
        result: `dtype` [R, width]; width is N, or N / 2 with a gated activation

    Without an activation the sum is the result. `constants` has alpha, beta and limit
    per expert. Rows past offsets[E] become 0.
    """

    x: Matrix
    w: Matrix
    offsets: torch.Tensor
    dtype: torch.dtype
    slots: torch.Tensor | None = None
    choices: int = 1
    bias: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    per_row: int = 1
    activation: Activation | None = None
    constants: Params | None = None
    #: Whether w has its gate rows before its up rows.
    gate_first: bool = True
    #: Columns of the result where w is padded.
    columns: int | None = None

    @property
    def rows(self) -> int:
        """How many rows the result has."""
        return self.x.shape[0] if self.slots is None else len(self.slots)

    @property
    def gated(self) -> bool:
        """Whether each column of the result takes two rows of w."""
        return self.activation is not None and self.activation.gated

    @property
    def width(self) -> int:
        """How many columns the result has."""
        halves = 2 if self.gated else 1
        return self.w.shape[1] // halves if self.columns is None else self.columns

    @property
    def device(self) -> torch.device:
        return device_of(self.x)

    @property
    def curve(self) -> str:
        """The enumerator of Curve."""
        return "kPlain" if self.activation is None else CURVES[self.activation.kind]

    @property
    def starts(self) -> tuple[int, int]:
        """Where w's gate and up rows (or all of them) start."""
        if not self.gated:
            return 0, 0
        gate, up = 0, self.w.shape[1] // 2
        return (gate, up) if self.gate_first else (up, gate)

    def empty(self) -> torch.Tensor:
        """The result, not written yet."""
        shape = (self.rows, self.width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def check(self) -> None:
        """Raise TypeError or ValueError naming the first tensor that does not fit."""
        op = "grouped_gemm"
        check_matrix(op, "x", self.x, 2)
        check_matrix(op, "weights", self.w, 3, self.device)
        experts, height, depth = self.w.shape
        short = depth < self.x.shape[1]
        if short or (depth > self.x.shape[1] and not isinstance(self.w, Packed)):
            raise ValueError(
                f"grouped_gemm: x has K={self.x.shape[1]} columns, the weights "
                f"K={depth}; give operands of one K"
            )
        check(op, "offsets", self.offsets, tuple(IDS), (experts + 1,), self.device)
        if self.dtype not in TYPES:
            raise TypeError(
                f"grouped_gemm: dtype={self.dtype}; take float32, bfloat16 or float16"
            )
        if self.gated and height % 2:
            raise ValueError(
                f"grouped_gemm: weights of {height} rows cannot hold a gate and an up "
                "half; give 2I"
            )
        if self.bias is not None:
            shape = (experts, height)
            check(op, "bias", self.bias, tuple(TYPES), shape, self.device)
        if self.slots is not None:
            check(op, "rows", self.slots, (torch.int32,), (None,), self.device)

    def job(self) -> Struct:
        """As struct Job; the tensors must outlive the launch."""
        pointers = (self.offsets, self.slots, self.bias, self.weights)
        bias = torch.float32 if self.bias is None else self.bias.dtype
        values = (
            *(0 if tensor is None else tensor.data_ptr() for tensor in pointers),
            self.rows, self.width, self.w.shape[1], *self.starts,
            int(self.offsets.dtype == torch.int64), self.w.shape[0], self.choices,
            *(SCALES.index(TYPES[dtype]) for dtype in (bias, self.dtype)),
            self.per_row, max(self.width // self.per_row, 1), 0,
        )  # fmt: skip
        return np.array([values], _JOB)

    def parameters(self) -> bytes:
        """The activation's constants as struct Parameters."""
        tensors = constant_tensors(self.constants)
        return parameters_struct(self.activation or Activation(), tensors)


def naive(gemm: Gemm) -> torch.Tensor:
    """A thread an output, fp64 sums: every format, packing and size.

    Each dot product comes out rounded to fp32 once.
    """
    gemm.check()
    out = gemm.empty()
    Kernel("grouped_gemm.cu", f"gemm_naive<{gemm.curve}>")(
        (gemm.rows, blocks_for(gemm.width, _THREADS)), _THREADS, operand_struct(gemm.x),
        operand_struct(gemm.w), gemm.job(), gemm.parameters(), out, device=gemm.device,
    )  # fmt: skip
    return out
