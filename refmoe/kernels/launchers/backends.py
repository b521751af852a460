"""Who multiplies: the GEMMs of the experts behind one small protocol.

A backend is a function from a `Gemm` to its result. Any function of that form plugs in;
those here go by name, which the ops take as `tactic`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from refmoe.kernels import loader
from refmoe.kernels.launchers.apart import activated_apart
from refmoe.kernels.launchers.gemm import Gemm, naive
from refmoe.kernels.launchers.libraries import by_cublas, by_torch
from refmoe.kernels.launchers.operands import Matrix
from refmoe.kernels.launchers.tactics import TACTICS, tactics
from refmoe.kernels.launchers.tensor_cores import fixed, tensor_cores


class Backend(Protocol):
    """Does one grouped GEMM, with its bias, activation and weights.

    Raises ValueError for a GEMM that it does not take.
    """

    def __call__(self, gemm: Gemm, /) -> torch.Tensor: ...


_BACKENDS: dict[str, Backend] = {
    "naive": naive, **{f"mma_{name}": fixed(name) for name in TACTICS},
    "mma_apart": activated_apart, "torch": by_torch, "cublas": by_cublas,
}  # fmt: skip

#: Those that read nothing back from the GPU: under CUDA graph capture too.
CAPTURED = tuple(name for name in _BACKENDS if name not in ("torch", "cublas"))


def names() -> tuple[str, ...]:
    """Every backend by name, but tactics that do not fit the current GPU."""
    if not torch.cuda.is_available():
        return tuple(_BACKENDS)
    offered = tactics(loader.target_for(torch.cuda.current_device()))
    missing = {f"mma_{name}" for name in TACTICS if name not in offered}
    return tuple(name for name in _BACKENDS if name not in missing)


def backend(name: str | Backend | None) -> Backend:
    """The backend called `name`, tensor cores with a tactic of their own where None.

    A backend itself is handed through.

    Raises ValueError listing them all.
    """
    if name is None:
        return tensor_cores
    if not isinstance(name, str):
        return name
    try:
        return _BACKENDS[name]
    except KeyError:
        raise ValueError(
            f"backend: there is no {name!r}; there are {', '.join(_BACKENDS)}"
        ) from None


def grouped_gemm(
    x: Matrix,
    weights: Matrix,
    offsets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    tactic: str | Backend | None = None,
) -> torch.Tensor:
    """y[r] = x[r] weights[e]^T (+ bias[e]) for the rows r of each expert e, [R, N].

    Shapes: x: f[R, K] or Blocks; weights: f[E, N, K] or Blocks; offsets: i32 or i64
    [E + 1] -> `dtype`, x's where None (bf16 for Blocks)

    Rows past offsets[E] become 0.

    Raises TypeError and ValueError for operands that do not fit.
    """
    if dtype is None:
        dtype = x.dtype if isinstance(x, torch.Tensor) else torch.bfloat16
    return backend(tactic)(Gemm(x, weights, offsets, dtype, bias=bias))
