"""Products by libraries: PyTorch's, and cuBLAS through CuPy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch

from refmoe.kernels.driver import current_stream
from refmoe.kernels.launchers.apart import by_expert
from refmoe.kernels.launchers.gemm import Gemm

#: cudaDataType_t, and CUBLAS_COMPUTE_32F_PEDANTIC: fp32 sums, never TF32.
_CUDA_TYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}
_PEDANTIC, _DEFAULT_ALGORITHM = 69, -1


def by_torch(gemm: Gemm) -> torch.Tensor:
    """`torch.mm` for each expert: sums in fp32 for 16-bit operands, else in fp64."""
    return by_expert(gemm, _torch)


def by_cublas(gemm: Gemm) -> torch.Tensor:
    """`cublasGemmEx` for each expert: sums in fp32.

    Raises ValueError without a GPU, RuntimeError without CuPy.
    """
    if gemm.device.type != "cuda":
        raise ValueError(
            f"grouped_gemm: operands are on {gemm.device}, but cuBLAS needs a GPU; "
            "take another tactic"
        )
    return by_expert(gemm, _cublas)


def _torch(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    narrow = x.dtype == w.dtype and x.dtype in (torch.bfloat16, torch.float16)
    if narrow and x.is_cuda:
        return torch.mm(x, w.T, out_dtype=torch.float32)
    return x.double() @ w.double().T


def _cublas(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """y^T [N, R] = w x^T in the library's column-major order, which is y in ours."""
    try:
        import cupy

        cublas = import_module("cupy_backends.cuda.libs.cublas")
    except ImportError as error:
        raise RuntimeError(
            "CuPy is missing, which calls cuBLAS; install `refmoe[cuda13]` (or "
            "[cuda12])"
        ) from error
    if x.dtype != w.dtype or x.dtype not in _CUDA_TYPES:
        x, w = x.float(), w.float()
    (rows, depth), width = x.shape, w.shape[0]
    y = torch.empty((rows, width), dtype=torch.float32, device=x.device)
    kind = _CUDA_TYPES[x.dtype]
    one, zero = (np.array(value, dtype=np.float32) for value in (1.0, 0.0))
    index = x.device.index or 0
    # CuPy sets its own current stream on the handle before each call.
    with cupy.cuda.Device(index), current_stream(index):
        handle: Any = cupy.cuda.device.get_cublas_handle()
        cublas.gemmEx(
            handle, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, width, rows, depth,
            one.ctypes.data, w.data_ptr(), kind, depth, x.data_ptr(), kind, depth,
            zero.ctypes.data, y.data_ptr(), 0, width, _PEDANTIC, _DEFAULT_ALGORITHM,
        )  # fmt: skip
    return y
