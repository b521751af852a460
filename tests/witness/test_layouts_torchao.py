"""128x4 tiles against torchao."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.layouts.scale_tiles import swizzle_128x4, unswizzle_128x4

pytest.importorskip("torchao")
from torchao.prototype.mx_formats.utils import from_blocked, to_blocked


@given(st.integers(1, 300), st.integers(1, 19), st.integers(0, 2**31))
def test_scales_128x4_are_torchaos(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(256, (rows, columns), generator=generator, dtype=torch.uint8)
    tiles = swizzle_128x4(x)
    assert torch.equal(tiles, to_blocked(x, use_triton_kernel=False))
    if rows % 128 == 0 and columns % 4 == 0:
        assert torch.equal(from_blocked(tiles, rows, columns), x)
    assert torch.equal(unswizzle_128x4(tiles, rows, columns), x)


@pytest.mark.parametrize(("rows", "columns"), [(128, 4), (256, 12), (384, 8)])
def test_scales_128x4_are_read_back_by_torchao(rows: int, columns: int) -> None:
    x = (torch.arange(rows * columns) % 251).to(torch.uint8).reshape(rows, columns)
    assert torch.equal(from_blocked(swizzle_128x4(x), rows, columns), x)
