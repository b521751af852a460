"""Combine: each token's rows weighted and added, and the shared expert joined once."""

from __future__ import annotations

import numpy as np
import torch

from refmoe.kernels.foresight import foreseen
from refmoe.kernels.launch import Kernel, aligned, blocks_for, check
from refmoe.kernels.launchers.formats import TYPES
from refmoe.kernels.launchers.permute import inverse_of

_FLOATS = tuple(TYPES)
#: struct Joining of combine.cu.
_JOINING = np.dtype(
    [("x", "u8"), ("shared", "u8"), ("gate", "u8"), ("scale", "f4"), ("factor", "f4")]
)


@foreseen
def combine(
    down: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """routed[t] = sum over j, in order, of weights[t, j] down[row of slot (t, j)].

    Shapes: down: f[R, H]; rows: i32 or i64 [R], slots; weights: f[T, k] -> f[T, H] of
    down's type
    """
    check("combine", "weights", weights, _FLOATS, (None, None))
    check("combine", "rows", rows, (torch.int32, torch.int64), (None,), weights.device)
    inverse = inverse_of(rows, *weights.shape)
    return combine_rows(down, inverse, weights)


def combine_rows(
    down: torch.Tensor,
    inverse: torch.Tensor,
    weights: torch.Tensor | None,
    *,
    scale: float = 1.0,
    shared: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    factor: float = 1.0,
    identity: tuple[torch.Tensor, torch.Tensor, int] | None = None,
    dtype: torch.dtype | None = None,
    naive: bool = False,
) -> torch.Tensor:
    """((sum over j of weights[t, j] down[inverse[t, j]]) scale + shared gate) factor.

    Shapes:
        down: bf16, fp16 or fp32 [R, H]; inverse: i32[T, k], -1 for no row
        weights: f[T, k], None for 1; shared: f32[T, H]; gate: f32[T]
        identity: ids i32[T, k], x [T, H] of down's type, and E: ids of E and above are
        experts that hand x on
        out: [T, H] of `dtype`, that of down where None

    Each product and sum is rounded to fp32, the result to `dtype`; the order is that of
    the choices, whatever the batch. A slot without a row adds nothing, even if its
    weight is NaN.

    Raises TypeError and ValueError for tensors that do not fit.
    """
    check("combine", "inverse", inverse, (torch.int32,), (None, None))
    tokens, choices = inverse.shape
    device = inverse.device
    check("combine", "down", down, _FLOATS, (None, None), device)
    columns = down.shape[1]
    dtype = down.dtype if dtype is None else dtype
    if dtype not in TYPES:
        raise TypeError(f"combine: dtype={dtype}; take float32, bfloat16 or float16")
    if weights is not None:
        check("combine", "weights", weights, _FLOATS, (tokens, choices), device)
    if shared is not None:
        check("combine", "shared", shared, (torch.float32,), (tokens, columns), device)
    if gate is not None:
        check("combine", "gate", gate, (torch.float32,), (tokens,), device)
    ids, x, experts = identity if identity is not None else (None, None, 0)
    if ids is not None and x is not None:
        check("combine", "ids", ids, (torch.int32,), (tokens, choices), device)
        check("combine", "x", x, (down.dtype,), (tokens, columns), device)
    pointers = (0 if t is None else t.data_ptr() for t in (x, shared, gate))
    joining = np.array([(*pointers, scale, factor)], _JOINING)
    out = torch.empty((tokens, columns), dtype=dtype, device=device)
    vector = 16 // max(down.element_size(), out.element_size())
    whole = down if x is None else x
    if naive or columns % vector or not aligned(16, down, whole):
        vector = 1
    names = (down.dtype, torch.float32 if weights is None else weights.dtype, dtype)
    types = ", ".join(TYPES[name] for name in names)
    Kernel("combine.cu", f"combine_rows<{types}, i64, {vector}>")(
        (tokens, blocks_for(columns, 128 * vector)), 128, down, inverse, weights, ids,
        np.int32(experts), np.int32(choices), out, columns, joining, device=device,
    )  # fmt: skip
    return out
