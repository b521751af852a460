"""Quantising rows sorted by expert, with linear scales and in the 128x4 layout."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from oracle import blocks as oracle
from oracle.blocks import PRESETS
from oracle.blocks.grouped import grouped_quantize as reference
from oracle.layouts.scale_tiles import swizzle_128x4, swizzle_grouped
from refmoe.kernels.launchers.grouped import grouped_quantize

FORMATS = (
    "mxfp8_e4m3:rceil",
    "mxfp4",
    "nvfp4",
    "fp8_group_128:ue8m0",
    "mxfp4:deepgemm",
)
OFFSETS = torch.tensor([0, 3, 3, 10, 140, 141], dtype=torch.int32)


def rows(columns: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(141, columns, generator=generator) * 2.0
    return (x * torch.logspace(-2, 2, 141)[:, None]).to(dtype)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_grouped_quantize_equals_oracle(
    name: str, naive: bool, any_order: None
) -> None:
    columns = 256 if PRESETS[name].block[1] == 128 else 96
    x = rows(columns)
    want = reference(x, OFFSETS.long(), name)
    got = grouped_quantize(x, OFFSETS, name, naive=naive)
    assert torch.equal(got.codes, want.codes)
    assert torch.equal(got.scales, want.scales)
    if want.global_scale is not None:
        assert got.global_scale is not None
        assert torch.equal(got.global_scale, want.global_scale)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_grouped_quantize_swizzles_each_region(
    name: str, dtype: torch.dtype, naive: bool, emulated: None
) -> None:
    """Each expert's region is its own scales, swizzled, and zeros in between."""
    x = rows(256 if PRESETS[name].block[1] == 128 else 96, dtype)
    want = reference(x, OFFSETS.long(), name)
    got = grouped_quantize(x, OFFSETS, name, layout="128x4", naive=naive)
    assert torch.equal(got.codes, want.codes)
    regions = swizzle_grouped(want.scales, OFFSETS.long())
    stored = got.scales.flatten()
    assert torch.equal(stored[: len(regions)], regions)
    assert not bool(stored[len(regions) :].any())


def test_grouped_quantize_fills_a_given_buffer(emulated: None) -> None:
    x = rows(96)
    starts = torch.tensor([256, 0, 0, 384, 128, 640], dtype=torch.int32)
    buffer = torch.full((640, 4), 77, dtype=torch.uint8)
    got = grouped_quantize(
        x, OFFSETS, "mxfp8_e4m3", layout="128x4", starts=starts, scales=buffer
    )
    assert got.scales is buffer
    linear = oracle.quantize(x, "mxfp8_e4m3").scales
    for expert, (a, b) in enumerate(pairwise(OFFSETS.tolist())):
        region = swizzle_128x4(linear[a:b]).view(-1, 4)
        start = int(starts[expert])
        assert torch.equal(buffer[start : start + len(region)], region)


def test_grouped_quantize_leaves_rows_of_no_expert_alone(emulated: None) -> None:
    x = rows(96)
    offsets = torch.tensor([0, 5, 9], dtype=torch.int64)
    x[9:] = torch.nan
    got = grouped_quantize(x, offsets, "nvfp4")
    want = reference(x[:9], offsets, "nvfp4")
    assert torch.equal(got.codes[:9], want.codes)
    assert torch.equal(got.scales[:9], want.scales)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grouped_quantize(rows(256), OFFSETS, "fp8_block_128"),
         r"blocks of fp8_block_128 are \(128, 128\) and span rows"),
        (lambda: grouped_quantize(rows(256), OFFSETS, "fp8_group_128", layout="128x4"),
         "scales of fp8_group_128 are fp32; the 128x4 layout holds bytes"),
        (lambda: grouped_quantize(rows(96), OFFSETS, "mxfp4", layout="128x4",
                                  starts=OFFSETS), "starts without scales"),
        (lambda: grouped_quantize(rows(96), OFFSETS, "mxfp4", layout="128x4",
                                  scales=torch.zeros(128, 8).byte()),
         r"scales has shape \(128, 8\); it must be \[any, 4\]"),
    ],
)  # fmt: skip
def test_grouped_quantize_refuses(
    call: Callable[[], object], message: str, emulated: None
) -> None:
    with pytest.raises(ValueError, match=message):
        call()
