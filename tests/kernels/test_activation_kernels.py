"""Activation kernels within the oracle's bounds; fused with quantise, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from oracle import activation as oracle
from oracle import bounds
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import Activation, Layer
from oracle.spec.activation import ActivationKind
from refmoe.kernels.launchers.activate import CURVES, activate, activate_quantize
from refmoe.kernels.launchers.quantize import quantize

KINDS = get_args(ActivationKind)
NUMERICS = Numerics(intermediate="bf16")
NO_WEIGHTS = torch.zeros(0)


def layer(activation: Activation) -> Layer:
    return Layer(16, 16, 4, 2, activation=activation)


SWIGLU = layer(Activation())


def params(**tensors: torch.Tensor) -> Params:
    return Params(NO_WEIGHTS, NO_WEIGHTS, **tensors)


def halves(rows: int, columns: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * 8
    x[0] = torch.linspace(-30, 30, columns)
    x[1, ::2] = torch.logspace(-40, 2, columns)[::2]
    return x.to(dtype)


def inside(got: torch.Tensor, tap: bounds.Tap, dtype: str) -> None:
    want = bounds.rounded(tap, dtype, NUMERICS)
    low = high = want.value
    if want.worst is not None:
        low, high = want.value - want.worst, want.value + want.worst
    value = got.double()
    right = (value >= low) & (value <= high) | (value.isnan() & want.value.isnan())
    right |= value == want.value
    assert bool(right.all()), (value[~right], want.value[~right])


def test_activate_names_every_curve() -> None:
    assert tuple(CURVES) == KINDS


@pytest.mark.parametrize("clamp", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_activate_stays_within_bounds(
    kind: ActivationKind, clamp: str, emulated: None
) -> None:
    limit = 1.0 if clamp == "after" else None
    activation = Activation(kind, 1.702, 1.0, limit, clamp)  # type: ignore[arg-type]
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        x = halves(6, 96, dtype)
        got = activate(x, params(), layer(activation), None)
        tap = oracle.activate(bounds.exactly(x.double()), activation, NUMERICS)
        inside(got, tap, name)
        assert torch.equal(
            got, activate(x, params(), layer(activation), None, naive=True)
        )


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_activate_takes_constants_per_expert(
    index: torch.dtype, emulated: None
) -> None:
    own = {
        "alpha": torch.tensor([1.0, 1.702, 0.5]),
        "beta": torch.tensor([0.0, 1.0, -1.0]),
        "limit": torch.tensor([0.0, 7.0, 1.0]),
    }
    x = halves(9, 64, torch.bfloat16, seed=1)
    expert = torch.arange(9).remainder(3).to(index)
    got = activate(x, params(**own), SWIGLU, expert)
    spread = {name: tensor[expert.long()] for name, tensor in own.items()}
    tap = oracle.activate(bounds.exactly(x.double()), Activation(), NUMERICS, **spread)
    inside(got, tap, "bf16")
    plain = activate(x, params(**own), SWIGLU, None, activation=Activation())
    assert torch.equal(plain[::3], got[::3])


@pytest.mark.parametrize("kind", KINDS)
def test_activate_hands_nonfinite_values_on(
    kind: ActivationKind, emulated: None
) -> None:
    values = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 3.0])
    pairs = torch.cartesian_prod(values, values)
    activation = Activation(kind, limit=2.0 if kind.startswith("ge") else None)
    x = (pairs if activation.gated else values[:, None]).to(torch.bfloat16)
    got = activate(x.contiguous(), params(), layer(activation), None)
    tap = oracle.activate(bounds.exactly(x.double()), activation, NUMERICS)
    assert torch.equal(got.isnan(), tap.value.isnan())
    inside(got, tap, "bf16")


def test_activate_weights_the_intermediate(emulated: None) -> None:
    x, weights = halves(6, 64, torch.float32), torch.rand(6)
    plain = activate(x, params(), SWIGLU, None)
    got = activate(x, params(), SWIGLU, None, weights=weights)
    assert torch.equal(got, plain * weights[:, None])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("name", "width"),
    [("mxfp8_e4m3:rceil", 96), ("fp8_group_128", 1280), ("fp8_group_128:ue8m0", 128)],
)
def test_activate_quantize_equals_the_two_calls(
    name: str, width: int, dtype: torch.dtype, any_order: None
) -> None:
    x = halves(5, 2 * width, dtype, seed=2)
    weights, model = torch.rand(5), layer(Activation(limit=7.0))
    got = activate_quantize(x, params(), model, None, name, weights=weights)
    apart = activate(x, params(), model, None, weights=weights, dtype=torch.bfloat16)
    want = quantize(apart, name)
    assert torch.equal(got.codes, want.codes)
    assert torch.equal(got.scales, want.scales)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: activate(torch.zeros(2, 5), params(), SWIGLU, None),
         ValueError, "5 columns cannot hold a gate and an up half; give 2I"),
        (lambda: activate(torch.zeros(2, 4), params(alpha=torch.ones(4)),
                          SWIGLU, None), ValueError, "give expert"),
        (lambda: activate(torch.zeros(2, 4), params(alpha=torch.ones(4)),
                          SWIGLU, torch.zeros(3).int()), ValueError,
         r"expert has shape \(3,\); it must be \[2\]"),
        (lambda: activate(torch.zeros(2, 4).double(), params(), SWIGLU, None),
         TypeError, "gate_up is float64; convert it to bfloat16, float16, float32"),
        (lambda: activate(torch.zeros(2, 4), params(), SWIGLU, None,
                          dtype=torch.float64), TypeError, "dtype=torch.float64; take"),
        (lambda: activate_quantize(torch.zeros(2, 128), params(), SWIGLU, None,
                                   "nvfp4"), ValueError, "activate and quantise apart"),
        (lambda: activate_quantize(torch.zeros(2, 96), params(), SWIGLU, None,
                                   "fp8_token"), ValueError, "over 48 columns; take"),
    ],
)  # fmt: skip
def test_activate_refuses(
    call: Callable[[], object], error: type[Exception], message: str, emulated: None
) -> None:
    with pytest.raises(error, match=message):
        call()
