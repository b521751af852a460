"""What every layout obeys: it has an inverse, and each bit of x is stored once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.layouts import LAYOUTS, Layout
from oracle.layouts.scale_tiles import blockscale_offsets

Options = dict[str, Any]

#: Options beside the defaults that a layout must obey the laws with, and the multiples
#: that they ask for where those are others.
OPTIONS: dict[str, list[tuple[Options, tuple[int, int] | None]]] = {
    "scales_128x4": [({"column_multiple": 8}, None), ({"pad": 255}, None)],
    "scales_8x4": [({"pad": 255}, None)],
    "sm90_scales": [({"group": 16}, (64, 8))],
    "hopper_values": [({"mma": 2}, None), ({"pad": 255}, None)],
    "hopper_scales": [({"warps": 4}, None), ({"warps": 1}, None), ({"pad": 255}, None)],
    "deep_gemm_sm90_scales": [({"pad": 255}, None)],
    "marlin_weights": [({"activation_bits": 8}, None)],
    "marlin_scales": [({"activation_bits": 8}, None)],
    "trtllm_gen_rows": [({"tile": 8}, (16, 1)), ({"axis": -1}, (1, 32))],
    "trtllm_gen_block_major": [({"columns": 64}, (1, 64))],
}
PLANS = [
    pytest.param(layout, options, sizes or layout.multiple, id=f"{name}{options}")
    for name, layout in LAYOUTS.items()
    for options, sizes in [({}, None), *OPTIONS.get(name, [])]
]


def _recodes(layout: Layout, options: Options) -> bool:
    """Whether codes change besides moving."""
    eight_bit_scales = layout.name == "marlin_scales" and bool(options)
    return layout.name in ("marlin_nvfp4_scales", "int4_gptq_zeros") or eight_bit_scales


MOVES = [plan for plan in PLANS if not _recodes(*plan.values[:2])]


def _values(layout: Layout) -> int:
    """How many codes x may hold, from 0 on."""
    if layout.takes == "codes":
        return 16
    return 127 if layout.name.startswith("marlin") else 256


def _context(layout: Layout, shape: tuple[int, ...]) -> Options:
    if layout.name != "scales_128x4_grouped":
        return {}
    cuts = sorted({0, shape[0] // 3, shape[0]})
    return {"offsets": torch.tensor([0, *cuts, shape[0]])}


@pytest.mark.parametrize(("layout", "options", "multiple"), PLANS)
@given(
    lead=st.sampled_from(((), (2,), (2, 0), (1, 3))),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_layouts_inverse_restores_every_code(
    layout: Layout,
    options: Options,
    multiple: tuple[int, int],
    lead: tuple[int, ...],
    rows: int,
    columns: int,
    seed: int,
) -> None:
    lead = () if layout.name == "scales_128x4_grouped" else lead
    shape = (*lead, rows * multiple[0], columns * multiple[1])
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(_values(layout), shape, generator=generator, dtype=torch.uint8)
    options = options | _context(layout, shape)
    before = x.clone()
    y = layout.forward(x, **options)
    back = layout.inverse(y, x.shape, **options)
    assert back.dtype == x.dtype
    assert torch.equal(back, x)
    assert torch.equal(x, before), "the input was written to"
    assert y.is_contiguous()


def _bits(octets: torch.Tensor) -> torch.Tensor:
    """Bits of the stored bytes, lowest first."""
    flat = octets.contiguous().flatten().view(torch.uint8)
    return ((flat[:, None] >> torch.arange(8)) & 1).flatten()


@pytest.mark.parametrize(("layout", "options", "multiple"), MOVES)
def test_layouts_store_each_bit_once(
    layout: Layout, options: Options, multiple: tuple[int, int]
) -> None:
    """Label every bit of x by its place, one binary digit of the label at a time."""
    if "pad" in options:
        options = options | {"pad": 0}
    shape = (2 * multiple[0], 3 * multiple[1])
    options = options | _context(layout, shape)
    width = 4 if layout.takes == "codes" else 8
    place = torch.arange(torch.Size(shape).numel() * width).reshape(*shape, width)
    weights = torch.tensor([1 << bit for bit in range(width)], dtype=torch.uint8)

    def stored(digit: torch.Tensor) -> torch.Tensor:
        x = (digit.to(torch.uint8) * weights).sum(-1, dtype=torch.uint8)
        return _bits(layout.forward(x, **options))

    live = stored(torch.ones_like(place)).to(torch.bool)
    label = torch.zeros(live.shape, dtype=torch.int64)
    for digit in range(place.numel().bit_length()):
        label += stored((place >> digit) & 1).to(torch.int64) << digit
    assert label[live].sort().values.tolist() == list(range(place.numel()))
    assert not bool(label[~live].any())


@pytest.mark.parametrize(
    ("layout", "options", "multiple"),
    [plan for plan in PLANS if plan.values[1] == {"pad": 255}],
)
def test_layouts_padding_holds_the_byte_given(
    layout: Layout, options: Options, multiple: tuple[int, int]
) -> None:
    x = torch.zeros(3, 5, dtype=torch.uint8)
    live = _bits(layout.forward(x, **options)) == 0
    assert int(live.sum()) == 8 * x.numel()


@pytest.mark.parametrize("counts", [*itertools.product((0, 1, 128, 129), repeat=3)])
def test_grouped_scales_are_the_experts_tiles_in_a_row(counts: tuple[int, ...]) -> None:
    offsets = torch.tensor([0, *itertools.accumulate(counts)])
    rows = int(offsets[-1])
    x = (torch.arange(rows * 5) * 37 % 251).to(torch.uint8).reshape(rows, 5)
    layout, alone = LAYOUTS["scales_128x4_grouped"], LAYOUTS["scales_128x4"]
    y = layout.forward(x, offsets=offsets, pad=9)
    parts = [
        alone.forward(x[start:stop], pad=9)
        for start, stop in itertools.pairwise(offsets.tolist())
    ]
    assert torch.equal(y, torch.cat(parts))
    assert torch.equal(layout.inverse(y, x.shape, offsets=offsets), x)
    starts = blockscale_offsets(offsets) * 8
    assert [len(part) for part in parts] == starts.diff().tolist()


@pytest.mark.gpu
@pytest.mark.parametrize(("layout", "options", "multiple"), PLANS)
def test_layouts_agree_on_the_gpu(
    layout: Layout, options: Options, multiple: tuple[int, int]
) -> None:
    shape = (3 * multiple[0], 5 * multiple[1])
    x = torch.arange(torch.Size(shape).numel()) * 37 % _values(layout)
    x = x.to(torch.uint8).reshape(shape)
    here = options | _context(layout, shape)
    there = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in here.items()}
    y = layout.forward(x.cuda(), **there)
    assert torch.equal(y.cpu(), layout.forward(x, **here))
    assert torch.equal(layout.inverse(y, x.shape, **there).cpu(), x)
