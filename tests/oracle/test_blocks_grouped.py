"""Grouped quantisation: every expert's rows on their own."""

from itertools import pairwise

import pytest
import torch

from oracle.blocks import dequantize, grouped_dequantize, grouped_quantize, quantize

EDGES = (0, 5, 5, 134, 300)


def _rows(columns=256):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(EDGES[-1], columns, generator=generator)
    powers = torch.randint(-8, 9, (EDGES[-1], 1), generator=generator)
    return x * torch.exp2(powers.float())


OFFSETS = torch.tensor(EDGES)


@pytest.mark.parametrize(
    "name",
    ["mxfp4", "fp8_group_128", "int8_token", "fp8_block_128", "fp8_tensor", "nvfp4:te"],
)
def test_grouped_quantize_equals_each_expert_alone(name):
    x = _rows()
    blocks = grouped_quantize(x, OFFSETS, name)
    assert blocks.codes.shape == x.shape
    start = 0
    for expert, (low, high) in enumerate(pairwise(EDGES)):
        if low == high:
            start += blocks.format.block[0] == 0
            continue
        alone = quantize(x[low:high], name)
        assert torch.equal(blocks.codes[low:high], alone.codes)
        stop = start + len(alone.scales)
        assert torch.equal(blocks.scales[start:stop], alone.scales)
        start = stop
        if blocks.global_scale is not None:
            assert blocks.global_scale[expert] == alone.global_scale
        values = grouped_dequantize(blocks, OFFSETS)
        assert torch.equal(values[low:high], dequantize(alone))
    assert start == len(blocks.scales)


def test_grouped_quantize_scale_rows():
    x = _rows()
    assert grouped_quantize(x, OFFSETS, "fp8_block_128").scales.shape == (1 + 2 + 2, 2)
    assert grouped_quantize(x, OFFSETS, "fp8_tensor").scales.shape == (4, 1)
    assert grouped_quantize(x, OFFSETS, "nvfp4").global_scale.shape == (4,)
    assert grouped_quantize(x, OFFSETS, "mxfp4").scales.shape == (300, 8)


def test_grouped_quantize_no_rows():
    empty = torch.empty(0, 256)
    offsets = torch.zeros(4, dtype=torch.int64)
    for name in ("mxfp4", "nvfp4", "fp8_block_128", "fp8_tensor"):
        blocks = grouped_quantize(empty, offsets, name)
        assert blocks.codes.shape == (0, 256)
        assert grouped_dequantize(blocks, offsets).shape == (0, 256)


@pytest.mark.parametrize(
    "x,offsets,words",
    [
        (
            torch.ones(4, 32),
            torch.tensor([0, 3, 2, 4]),
            "must rise from 0 to the 4 rows",
        ),
        (torch.ones(4, 32), torch.tensor([0, 3]), "cut x to offsets.-1. rows"),
        (torch.ones(4, 32), torch.tensor([1, 4]), "must rise from 0"),
        (torch.ones(4, 32), torch.tensor([4]), "give i64.E . 1."),
        (torch.ones(4, 32), torch.tensor([0.0, 4.0]), "torch.float32; give i64"),
        (torch.ones(1, 4, 32), torch.tensor([0, 4]), "give the permuted rows .R, K."),
    ],
)
def test_grouped_quantize_refuses(x, offsets, words):
    with pytest.raises(ValueError, match=words):
        grouped_quantize(x, offsets, "mxfp4")


def test_grouped_quantize_region_must_divide():
    x = torch.ones(20, 32)
    with pytest.raises(ValueError, match="4 rows do not divide into blocks of 16"):
        grouped_quantize(x, torch.tensor([0, 16, 20]), "nvfp4:te_2d")
