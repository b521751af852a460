"""torch's grouped GEMM and casts as a port."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle import bounds
from oracle.blocks import dequantize, preset, quantize
from oracle.experts import grouped_gemm
from oracle.numerics import PRESETS
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.peers import torch as port


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_grouped_gemm_exact_on_small_integers(dtype: torch.dtype) -> None:
    """Catches offsets without their first zero, and a weight that is not transposed."""
    random = torch.Generator().manual_seed(2)
    x = torch.randint(-3, 4, (7, 16), generator=random).to(dtype)
    weights = torch.randint(-3, 4, (4, 24, 16), generator=random).to(dtype)
    offsets = torch.tensor([0, 2, 2, 7, 7])
    got = port.grouped_gemm(x, weights, offsets)
    tap = bounds.exactly(x.double())
    want = grouped_gemm(tap, weights, offsets, PRESETS["ieee"])
    assert torch.equal(got.double(), want.value)


@pytest.mark.parametrize(
    "name", ["mxfp8_e4m3", "mxfp8_e5m2", "fp8_block_128", "int8_token"]
)
def test_dequantize_every_code(name: str) -> None:
    """Catches a scale spread along the wrong axis, and a code read as unsigned."""
    random = torch.Generator().manual_seed(3)
    blocks = quantize(torch.randn(256, 256, generator=random), preset(name))
    codes = torch.arange(256).repeat(256, 1).to(torch.uint8).view(blocks.codes.dtype)
    blocks = replace(blocks, codes=codes)
    want = dequantize(blocks, dtype=torch.float32)
    got = port.dequantize(blocks)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_dequantize_refuses_fp4() -> None:
    """Catches a code that would be viewed as another type."""
    with pytest.raises(ValueError, match="torch casts no e2m1"):
        port.dequantize(quantize(torch.ones(1, 32), preset("mxfp4")))


def test_supports_wants_16_byte_rows() -> None:
    """Catches a refusal inside torch that would count as a crash."""
    case = parse("grouped_gemm model=mixtral-8x7b T=4 H=12 I=16 E=4 k=2")
    assert port.supports(case) == "rows of 24 bytes; torch wants a multiple of 16"
    assert port.supports(case.but(H=24)) is True


def test_port_loads_by_name() -> None:
    """Catches an attribute that no port has."""
    assert set(load("refmoe.peers.torch").ops) == {"grouped_gemm", "dequantize"}
