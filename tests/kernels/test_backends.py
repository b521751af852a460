"""Who multiplies: named backends, a caller's own, and how cuBLAS is called."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oracle.blocks import quantize
from oracle.params import Params
from oracle.spec import Activation, Layer
from refmoe.kernels.launchers import libraries, tactics
from refmoe.kernels.launchers.apart import by_expert
from refmoe.kernels.launchers.backends import backend, grouped_gemm, names
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.gemm import Gemm, naive

OFFSETS = torch.tensor([0, 2, 2, 5])


def randn(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def test_backends_go_by_name() -> None:
    assert {"naive", "mma_medium", "mma_apart", "torch", "cublas"} <= set(names())
    assert backend(naive) is naive
    with pytest.raises(ValueError, match="there is no 'cutlass'; there are naive"):
        backend("cutlass")


def test_backends_leave_out_tactics_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setitem(tactics.TACTICS, "huge", tactics.Tactic(2, 4, 4, 8, 4))
    monkeypatch.setenv("REFMOE_TARGET", "sm_90a")
    assert "mma_huge" in names()
    monkeypatch.setenv("REFMOE_TARGET", "sm_89")
    assert "mma_huge" not in names()
    assert "mma_medium" in names()


@pytest.mark.parametrize("kind", ["swiglu", "relu2"])
@pytest.mark.parametrize("tactic", ["torch", "mma_apart"])
def test_backends_finish_as_the_kernels_do(
    tactic: str, kind: str, emulated: None, within_bounds: Any
) -> None:
    """Catches a bias, gate, weight or tail that the separate epilogue loses."""
    activation = Activation(kind, beta=1.0, limit=2.0)  # type: ignore[arg-type]
    x, w = randn(8, 64).bfloat16(), randn(3, 32, 64).bfloat16()
    slots = torch.tensor([3, 0, 1, 2, 4, -1], dtype=torch.int32)
    gemm = Gemm(
        x, w, OFFSETS, torch.float32, slots=slots, choices=2, bias=randn(3, 32),
        weights=torch.rand(5), activation=activation,
        constants=Params(w, w, alpha=torch.tensor([0.5, 1.0, 2.0])),
    )  # fmt: skip
    got, want = backend(tactic)(gemm), naive(gemm)
    assert within_bounds(gemm, got)
    assert within_bounds(gemm, want)
    assert bool((got[5:] == 0).all())


def test_backends_take_a_function_of_the_caller(emulated: None) -> None:
    seen = []

    def own(gemm: Gemm) -> torch.Tensor:
        seen.append(gemm.w.shape)
        return naive(gemm)

    layer = Layer(32, 16, 3, 2)
    params = Params(randn(3, 32, 32).bfloat16(), randn(3, 32, 16).bfloat16())
    ids = torch.tensor([[0, 2], [1, -1]])
    x, weights = randn(2, 32).bfloat16(), torch.rand(2, 2)
    got = experts(x, ids, weights, params, layer, tactic=own)
    assert torch.equal(got, experts(x, ids, weights, params, layer, tactic="naive"))
    assert seen == [(3, 32, 32), (3, 32, 16)]


def test_backends_by_torch_sum_integers_exactly(emulated: None) -> None:
    x, w = quantize(randn(5, 64), "int8_token"), quantize(randn(3, 8, 64), "int8_token")
    got = grouped_gemm(x, w, OFFSETS, dtype=torch.float32, tactic="torch")
    want = grouped_gemm(x, w, OFFSETS, dtype=torch.float32, tactic="naive")
    assert torch.equal(got, want)


def test_backends_by_cublas_need_a_gpu(emulated: None) -> None:
    with pytest.raises(ValueError, match="operands are on cpu, but cuBLAS needs a GPU"):
        grouped_gemm(randn(5, 8), randn(3, 4, 8), OFFSETS, tactic="cublas")


def test_backends_call_cublas_in_its_order_of_columns(
    monkeypatch: pytest.MonkeyPatch, emulated: None
) -> None:
    """Catches swapped operands or leading dimensions: a stand-in reads the pointers.

    Catches a product on CuPy's own stream as well, which it sets before each call.
    """
    current: list[str] = []

    @contextmanager
    def stream(index: int) -> Iterator[None]:
        current.append("torch's stream")
        yield
        current.pop()

    def read(at: int, rows: int, columns: int) -> np.ndarray[Any, Any]:
        whole = (ctypes.c_float * (rows * columns)).from_address(at)
        return np.frombuffer(whole, np.float32).reshape(columns, rows).T

    def gemm_ex(
        handle: int, op_a: int, op_b: int, m: int, n: int, k: int, alpha: int, a: int,
        a_type: int, lda: int, b: int, b_type: int, ldb: int, beta: int, c: int,
        c_type: int, ldc: int, compute: int, algorithm: int,
    ) -> None:  # fmt: skip
        assert (handle, op_a, op_b, a_type, b_type, c_type) == (7, 1, 0, 0, 0, 0)
        assert (compute, algorithm, lda, ldb, ldc) == (69, -1, k, k, m)
        assert current == ["torch's stream"]
        product = read(a, lda, m).T @ read(b, ldb, n)
        out = (ctypes.c_float * (m * n)).from_address(c)
        np.frombuffer(out, np.float32)[:] = product.T.reshape(-1)

    cublas = ModuleType("cublas")
    cublas.__dict__.update(CUBLAS_OP_T=1, CUBLAS_OP_N=0, gemmEx=gemm_ex)
    cupy = ModuleType("cupy")
    device = SimpleNamespace(get_cublas_handle=lambda: 7)

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    cupy.__dict__["cuda"] = SimpleNamespace(device=device, Device=Device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", cublas)
    monkeypatch.setattr(libraries, "current_stream", stream)
    # Whole numbers: every order of the sums is exact.
    x, w = (8 * randn(5, 8)).round(), (8 * randn(3, 4, 8)).round()
    gemm = Gemm(x, w, OFFSETS, torch.float32)
    got = by_expert(gemm, libraries._cublas)
    assert torch.equal(got, naive(gemm))
