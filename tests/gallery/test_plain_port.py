"""The plain port against the oracle: two independent readings of the same formulas."""

from __future__ import annotations

import pytest
import torch

from oracle.blocks import PRESETS, dequantize, quantize
from oracle.models import MODELS
from oracle.numerics import PRESETS as NUMERICS
from refmoe.gallery.plain import Plain
from refmoe.generator import Stream
from refmoe.loading import port_of
from refmoe.plan import Cell, cases
from refmoe.regimes import REGIMES
from refmoe.verdict import Kind
from refmoe.verify import Verifier


def spread_out(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Normal numbers over sixty binades; the first row is zero."""
    stream = Stream(0, name)
    powers = stream.substream("powers").integers(shape, -40, 20).double()
    values = stream.normal(shape) * torch.exp2(powers)
    values[..., 0, :] = 0.0
    return values


@pytest.mark.parametrize("name", PRESETS)
def test_plain_quantize_yields_the_oracles_bytes(name: str) -> None:
    plain, exact = Plain(), Plain(NUMERICS["reference"])
    square = (128, 128)
    for shape, dtype in (
        ((2, 3, 256), torch.bfloat16), (square, torch.float32), (square, torch.float64)
    ):  # fmt: skip
        form = PRESETS[name]
        if form.block[0] > 1 and shape[-2] % form.block[0] and not form.ragged:
            continue
        normal = Stream(1, name).normal(shape)
        # Below the floors that some formats give amax.
        for x in (spread_out(name, shape), normal, normal * 2.0**-40):
            want, got = quantize(x.to(dtype), form), plain.quantize(x.to(dtype), form)
            assert torch.equal(got.codes, want.codes)
            assert torch.equal(got.scales, want.scales)
            if want.global_scale is not None:
                assert torch.equal(got.global_scale, want.global_scale)
            assert torch.equal(exact.dequantize(want), dequantize(want))


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("nvfp4")])
@pytest.mark.parametrize("exponent", range(-149, -108, 4))
def test_plain_quantize_nvfp4_at_tiny_amax(exponent: int, name: str) -> None:
    """Catches 0 * Inf or 0 / 0 past the range of fp32, and a global scale of zero."""
    form, row = PRESETS[name], torch.tensor([1.5, -0.5, 0.0, -0.0] * 8)
    rows = torch.stack([row, row / 128, row * 0]).double().repeat_interleave(16, 0)
    x = (rows * 2.0**exponent).float()
    want, got = quantize(x, form), Plain().quantize(x, form)
    assert torch.equal(got.codes, want.codes)
    assert torch.equal(got.scales, want.scales)
    if want.global_scale is not None:
        assert torch.equal(got.global_scale, want.global_scale)


@pytest.mark.parametrize("model", MODELS)
def test_plain_layer_is_within_the_oracles_bounds(model: str) -> None:
    """Catches a model that the two read differently."""
    check(Cell("route", model, "randn"), 2)
    check(Cell("moe", model, "randn"), 1)


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_plain_layer_is_within_the_oracles_bounds_everywhere(model: str) -> None:
    for op in ("route", "activate", "experts", "moe"):
        for regime in REGIMES:
            check(Cell(op, model, regime), 8)


def check(cell: Cell, count: int) -> None:
    port, verifier = port_of(Plain()), Verifier()
    for case in cases(cell, count):
        record = verifier.check(port, case)
        fine = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)
        assert record.kind in fine, f"{case}: {record.judgement.verdict}"
