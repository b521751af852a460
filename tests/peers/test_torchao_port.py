"""torchao's port returns torchao's bytes, and says where they leave the format."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from oracle.blocks import dequantize, preset, quantize
from refmoe.loading import load
from refmoe.peers import torchao
from refmoe.verdict import Kind

FAMILIES = ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2")
RULES = ("floor", "ceil", "even", "rceil")


def _spread(rows: int, columns: int, low: int, high: int) -> torch.Tensor:
    """Normal values, each block of 16 at a scale between 2^low and 2^high."""
    random = torch.Generator().manual_seed(5)
    values = torch.randn(rows, columns // 16, 16, generator=random)
    powers = torch.randint(low, high, (rows, columns // 16, 1), generator=random)
    return torch.ldexp(values, powers).flatten(1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("family", FAMILIES)
def test_quantize_mx_bytes(family: str, rule: str) -> None:
    """Catches codes left packed, and a rule handed to torchao under another's name."""
    x = _spread(256, 96, -60, 60)
    format = preset(f"{family}:torchao_{rule}")
    codes, scales = torchao.quantize(x, format)
    want = quantize(x, format)
    assert torch.equal(codes, want.codes)
    assert torch.equal(scales, want.scales)


@pytest.mark.parametrize("family", FAMILIES)
def test_dequantize_mx_every_code_and_scale(family: str) -> None:
    """Catches a scale byte that means another power of two, subnormal results included.

    Results past fp32 become infinite in torchao, which returns fp32.
    """
    count = {"mxfp4": 16, "mxfp6_e2m3": 64, "mxfp6_e3m2": 64}.get(family, 256)
    codes = torch.arange(count, dtype=torch.uint8).repeat(32).reshape(32, count).T
    codes = codes.repeat(256, 1, 1).reshape(-1, 32)
    scales = torch.arange(256, dtype=torch.uint8).repeat_interleave(count)[:, None]
    blocks = quantize(torch.zeros(len(codes), 32), preset(family))
    blocks = replace(blocks, codes=codes.contiguous(), scales=scales)
    got = torchao.dequantize(blocks)
    want = dequantize(blocks).float()
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["nvfp4:torchao", "nvfp4:torchao_single"])
def test_quantize_nvfp4_bytes(name: str) -> None:
    """Catches another order of the fp32 operations around the two scales."""
    x = _spread(256, 96, -8, 8)
    format = preset(name)
    codes, scales, *rest = torchao.quantize(x, format)
    want = quantize(x, format)
    assert torch.equal(codes, want.codes)
    assert torch.equal(scales, want.scales)
    if rest:
        assert want.global_scale is not None
        assert torch.equal(rest[0].reshape(-1), want.global_scale.reshape(-1))


def test_quantize_at_scale_byte_0_is_found_wrong() -> None:
    """torchao divides by 2^-126 (rceil: by 1) there; the byte decodes to 2^-127."""
    from refmoe.parse import parse
    from refmoe.verify import Verifier

    x = torch.full((1, 32), 2.0**-126)
    for rule, code in (("floor", 1.0), ("rceil", 2.0**-126)):
        codes, scales = torchao.quantize(x, preset(f"mxfp8_e4m3:torchao_{rule}"))
        assert int(scales) == 0
        want = torch.full((1, 32), code).to(torch.float8_e4m3fn).view(torch.uint8)
        assert torch.equal(codes, want)
    case = parse("quantize T=33 H=160 format=mxfp8_e4m3 regime=rounding seed=0")
    record = Verifier().check(load("refmoe.peers.torchao"), case)
    assert record.kind is Kind.WRONG
    assert record.judgement.verdict.tap == "codes"
    zeros = torchao.quantize(x * 0, preset("mxfp8_e4m3"))
    assert not any(part.any() for part in zeros)


def test_quantize_refuses_zero_tensor_under_global_scale() -> None:
    """Holds that torchao's global scale of zeros is 0."""
    from torchao.prototype.mx_formats.nvfp4_tensor import per_tensor_amax_to_scale

    assert per_tensor_amax_to_scale(torch.zeros(())) == 0
    with pytest.raises(ValueError, match=r"all-zero tensor .* give one non-zero value"):
        torchao.quantize(torch.zeros(2, 32), preset("nvfp4:torchao"))


def test_quantize_refuses_infinity() -> None:
    """torchao saturates it: vector `mxfp4-torchao_floor-infinity`."""
    x = torch.ones(2, 32)
    x[1, 3] = -torch.inf
    with pytest.raises(ValueError, match=r"infinity the scale of 2\^128, where the"):
        torchao.quantize(x, preset("mxfp4:torchao_floor"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mxint8", "no mxint8 codes"),
        ("fp8_block_128", r"no e4m3 codes in blocks of \(128, 128\)"),
        ("mxfp4:triton_kernels", "no floors"),
        ("nvfp4", "by the recipe 'torchao'"),
        ("fp8_group_128", "no divide fp32 scales"),
    ],
)
def test_quantize_refuses_other_formats(name: str, reason: str) -> None:
    """Catches a format that is quantised by another rule in silence."""
    with pytest.raises(ValueError, match=reason):
        torchao.quantize(torch.ones(2, 128), preset(name))
    case = SimpleNamespace(
        op="quantize", format=name, layer=SimpleNamespace(hidden=128)
    )
    assert isinstance(torchao.supports(case), str)


def test_supports_names_a_width_that_leaves_a_short_block() -> None:
    """Catches an assertion of torchao that would count as a crash."""
    layer = SimpleNamespace(hidden=40)
    case = SimpleNamespace(op="quantize", format="mxfp4", layer=layer)
    assert torchao.supports(case) == "H=40; torchao needs a multiple of 32"
    layer.hidden = 64
    assert torchao.supports(case) is True
    empty = SimpleNamespace(op="quantize", format="nvfp4:torchao", layer=layer, T=0)
    assert "cannot reshape a tensor without rows" in str(torchao.supports(empty))


def test_port_loads_by_name() -> None:
    """Catches an attribute that no port has."""
    assert set(load("refmoe.peers.torchao").ops) == {"quantize", "dequantize"}
