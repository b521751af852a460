"""Grouped GEMM kernels against the oracle's, for every pair of formats and packing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from oracle import bounds
from oracle.activation import activate
from oracle.blocks import dequantize, quantize
from oracle.experts import grouped_gemm as reference
from oracle.numerics import Numerics
from oracle.params import Blocks, Params, Weight
from oracle.spec import Activation
from oracle.trace import Tap
from refmoe.kernels.launchers.backends import grouped_gemm
from refmoe.kernels.launchers.gemm import Gemm, naive

NUMERICS = Numerics()
EXPERTS, COLUMNS = 5, 24
OFFSETS = torch.tensor([0, 7, 7, 20, 33, 33])
ROWS = 35


def values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def operand(x: torch.Tensor, format: str | None) -> torch.Tensor | Blocks:
    return x if format is None else quantize(x, format)


def meaning(x: torch.Tensor | Blocks) -> torch.Tensor:
    return x.double() if isinstance(x, torch.Tensor) else dequantize(x)


def product(x: torch.Tensor | Blocks, w: Weight, bias: torch.Tensor | None) -> Tap:
    return reference(bounds.exactly(meaning(x)), w, OFFSETS, NUMERICS, bias=bias)


def inside(got: torch.Tensor, tap: Tap, point: str = "fp32") -> None:
    tap = bounds.rounded(tap, point, NUMERICS)
    worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst
    assert bool(((got.double() - tap.value).abs() <= worst).all())


FORMATS = [
    (None, "mxfp4"), (None, "mxfp6_e2m3"), (None, "mxfp6_e3m2"), (None, "mxint8"),
    (None, "mxfp8_e5m2"), (None, "nvfp4"), (None, "int4_group_32:bf16"),
    (None, "fp8_tensor"), ("mxfp8_e4m3", "mxfp8_e4m3"), ("mxfp8_e4m3", "mxfp4"),
    ("fp8_group_128", "fp8_block_128"), ("fp8_group_128:ue8m0", "mxfp4"),
    ("fp8_token", "fp8_channel"), ("nvfp4", "nvfp4"), ("int8_token", "int8_channel"),
]  # fmt: skip


@pytest.mark.parametrize(("x_format", "w_format"), FORMATS)
@pytest.mark.parametrize("depth", [32, 160])
def test_grouped_gemm_multiplies_every_pair_of_formats(
    x_format: str | None, w_format: str, depth: int, emulated: None
) -> None:
    x = operand(values(ROWS, depth), x_format)
    w = operand(values(EXPERTS, COLUMNS, depth), w_format)
    bias = values(EXPERTS, COLUMNS)
    got = grouped_gemm(x, w, OFFSETS, bias=bias, dtype=torch.float32, tactic="naive")
    inside(got, product(x, w, bias))


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("depth", [1, 7, 64])
def test_grouped_gemm_multiplies_plain_values(
    dtype: str, depth: int, emulated: None
) -> None:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    x, w = values(ROWS, depth, dtype=kind), values(EXPERTS, COLUMNS, depth, dtype=kind)
    got = grouped_gemm(x, w, OFFSETS.int())
    assert got.dtype == kind
    inside(got, product(x, w, None), dtype)
    assert bool((got[33:] == 0).all())


def test_grouped_gemm_sums_integers_exactly(emulated: None) -> None:
    """Catches sums in fp32: 127 * 127 * 4096 needs 26 bits."""
    form = quantize(values(4, 4096), "int8_token").format
    codes = torch.full((4, 4096), 127, dtype=torch.int8)
    codes[1, 0], codes[2, 1] = 126, -128
    x = Blocks(codes, torch.ones(4, 1), form)
    w = Blocks(codes[None], torch.ones(1, 4, 1), form)
    got = grouped_gemm(x, w, torch.tensor([0, 4]), dtype=torch.float32)
    assert torch.equal(got.double(), (codes.double() @ codes.double().T).float())


def test_grouped_gemm_holds_partial_sums_past_fp32(emulated: None) -> None:
    """Catches codes that are summed before their scale brings them back into range."""
    x = torch.full((1, 32), 3e38).bfloat16()
    w = quantize(torch.full((1, 1, 32), 6 * 2.0**-20), "mxfp4")
    got = grouped_gemm(x, w, torch.tensor([0, 1]), dtype=torch.float32)
    assert float(got) == float((meaning(x) @ meaning(w)[0].T).float())


@pytest.mark.parametrize("kind", ["swiglu", "geglu_tanh", "softcap", "relu2"])
def test_gemm_with_activation_takes_rows_by_slot(kind: str, emulated: None) -> None:
    activation = Activation(kind, limit=1.0, beta=1.0)  # type: ignore[arg-type]
    tokens, choices = 20, 2
    x, w = values(tokens, 32), values(EXPERTS, COLUMNS, 32)
    bias, weights = values(EXPERTS, COLUMNS), torch.rand(tokens * choices)
    slots = torch.randperm(tokens * choices, generator=torch.Generator().manual_seed(1))
    slots = torch.cat((slots[:33], torch.tensor([-1, -1])))
    constants = Params(w, w, alpha=torch.linspace(0.5, 2, EXPERTS))
    gemm = Gemm(
        x, w, OFFSETS, torch.float32, slots=slots.int(), choices=choices, bias=bias,
        weights=weights, activation=activation, constants=constants,
    )  # fmt: skip
    got = naive(gemm)
    owner = torch.repeat_interleave(torch.arange(EXPERTS), OFFSETS.diff())
    rows = bounds.exactly(x[slots[:33] // choices].double())
    gate_up = reference(rows, w, OFFSETS, NUMERICS, bias=bias, point="fp32")
    tap = activate(gate_up, activation, NUMERICS, alpha=constants.alpha[owner])
    factor = bounds.exactly(weights[slots[:33], None].double())
    inside(got[:33], bounds.multiply(tap, factor, "fp32", NUMERICS))
    assert bool((got[33:] == 0).all())


X, W = torch.zeros(3, 8), torch.zeros(2, 4, 8)
OFFS = torch.tensor([0, 1, 3])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: grouped_gemm(X, torch.zeros(2, 4, 9), OFFS), ValueError,
         "x has K=8 columns, the weights K=9; give operands of one K"),
        (lambda: grouped_gemm(X, W, OFFS[:2]), ValueError,
         r"offsets has shape \(2,\); it must be \[3\]"),
        (lambda: grouped_gemm(X.double(), W, OFFS), TypeError, "x is float64; convert"),
        (lambda: grouped_gemm(X, None, OFFS), TypeError,
         "weights is a NoneType; give a tensor or Blocks"),
        (lambda: grouped_gemm(X, W, OFFS, bias=torch.zeros(2, 5)), ValueError,
         r"bias has shape \(2, 5\); it must be \[2, 4\]"),
        (lambda: grouped_gemm(X, W, OFFS, dtype=torch.int8), TypeError,
         "dtype=torch.int8; take float32"),
        (lambda: grouped_gemm(X, W, OFFS, tactic="gpu"), ValueError,
         "there is no 'gpu'; there are naive"),
        (lambda: naive(Gemm(X, W[:, :3].contiguous(), OFFS, torch.float32,
                            activation=Activation())), ValueError,
         "weights of 3 rows cannot hold a gate and an up half; give 2I"),
        (lambda: grouped_gemm(X, replace(quantize(torch.ones(2, 4, 16), "nvfp4"),
                                         global_scale=None), OFFS), ValueError,
         "weights is nvfp4.*, which needs a global scale; it has none"),
        (lambda: grouped_gemm(X, replace(quantize(torch.ones(2, 4, 32), "mxfp4"),
                                         scales=torch.zeros(2, 4, 2).byte()), OFFS),
         ValueError, r"weights.scales has shape \(2, 4, 2\); it must be \[2, 4, 1\]"),
    ],
)  # fmt: skip
def test_grouped_gemm_refuses(
    call: Callable[[], object], error: type[Exception], message: str, emulated: None
) -> None:
    with pytest.raises(error, match=message):
        call()
