"""Input that no layout takes, refused with the value, the limit and the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from oracle.layouts import (
    LAYOUTS,
    bits,
    deep_gemm,
    gate_up,
    get,
    hopper,
    int4,
    marlin,
    nibbles,
    s0e5m3,
    scale_tiles,
    sm90_mixed,
    trtllm_gen,
)
from oracle.layouts.rearrange import rearrange


def octets(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def words(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


ROWS = octets(16, 32)


def offsets(*starts: int) -> torch.Tensor:
    return scale_tiles.blockscale_offsets(torch.tensor(starts))


def grouped(scales: torch.Tensor, *starts: int) -> torch.Tensor:
    return scale_tiles.swizzle_grouped(scales, torch.tensor(starts))


def untile(tiles: torch.Tensor) -> torch.Tensor:
    return scale_tiles.unswizzle_128x4(tiles, 5, 4)


Call = Callable[[], object]

VALUES: dict[str, Call] = {
    "'sm90_fp5' is unknown; did you mean sm90_fp4": lambda: get("sm90_fp5"),
    "code 16 needs more than 4 bits; give 0 to 15": lambda: nibbles.pack(
        octets(2) + 16
    ),
    "order='big' is unknown": lambda: nibbles.pack(octets(2), "big"),
    "order='mixed' is unknown": lambda: gate_up.canonical(octets(4, 1), "mixed"),
    "pad=256 is no byte": lambda: scale_tiles.swizzle_128x4(octets(5, 4), 256),
    "must start at 0 and not decrease": lambda: offsets(0, 4, 3),
    "must start at 0 and not decr": lambda: offsets(1, 4),
    "kind='fp8' is unknown": lambda: sm90_mixed.deinterleave_weights(ROWS, "fp8"),
    "group=48 is unknown": lambda: sm90_mixed.interleave_scales(octets(64, 4), 48),
    "bytes per scale=4": lambda: sm90_mixed.interleave_scales(words(64, 4)),
    "mma=5 is unknown; use one of 2, 3": lambda: hopper.swizzle_values(ROWS, mma=5),
    "warps=3 is no power of two": lambda: hopper.swizzle_scales(ROWS, warps=3),
    "activation_bits=4 is unknown": lambda: marlin.pack_weights(octets(64, 16), 4),
    "scales of 1 groups along K": lambda: marlin.permute_scales(octets(64, 1)),
    "byte 250 exceeds 249": lambda: marlin.permute_scales(octets(64, 2) + 250, 8),
    "activation='fp8' is unknown": lambda: s0e5m3.global_scale(torch.ones(1), "fp8"),
    "code 8 is outside -8 to 7": lambda: int4.excess_8(octets(1).to(torch.int8) + 8),
    "sizes of all but one": lambda: rearrange(octets(4), "(a b)", "(b a)"),
    "name different parts": lambda: rearrange(octets(4), "(a)", "(b)"),
}

SIZES: dict[str, Call] = {
    "codes=3 is no multiple of 2; pad to 4": lambda: nibbles.pack(octets(3)),
    "bytes=6 is no mul": lambda: bits.move(octets(6), bits.FP4_FOR_FP8),
    "rows=7 is no multiple of 2": lambda: gate_up.arrange(octets(7, 1), "up_gate"),
    "multiple of 16; pad to 32": lambda: gate_up.arrange(octets(24, 1), "groups_8"),
    "column_multiple=6": lambda: scale_tiles.swizzle_128x4(octets(5, 4), 0, 6),
    "rows=24 is no mul": lambda: sm90_mixed.interleave_weights(octets(24, 32)),
    r"\(K / 2\)=48 is no mul": lambda: sm90_mixed.interleave_weights(octets(16, 48)),
    "rows=96 is no": lambda: sm90_mixed.interleave_scales(octets(96, 4)),
    "scale columns=6 is no": lambda: sm90_mixed.interleave_scales(octets(64, 6)),
    "rows=32 is no multiple of 64": lambda: marlin.pack_weights(octets(32, 32)),
    "columns=24 is no multiple of 16": lambda: marlin.pack_weights(octets(64, 24)),
    "columns=16 is no multiple of 32": lambda: marlin.pack_weights(octets(64, 16), 8),
    "axis of 40 does not split": lambda: marlin.permute_bias(octets(40)),
    "rows=96 is no multiple": lambda: deep_gemm.transpose_for_utccp(words(1, 96)),
    "columns=12 is no multiple of 8": lambda: int4.pack_gptq(octets(4, 12)),
    "rows=4 is no multiple of 8": lambda: int4.pack_awq(octets(4, 8)),
    "rows=4 is no multiple": lambda: int4.pack_gptq_zeros(octets(4, 1)),
    "rows=48 is no multiple of 32": lambda: trtllm_gen.shuffle_rows(octets(48, 1)),
    "columns=96 is no multiple": lambda: trtllm_gen.block_major(octets(1, 96)),
    "has 1 axes; give at least 2": lambda: scale_tiles.swizzle_128x4(octets(5)),
    "has 2 axes; give at least 3": lambda: trtllm_gen.row_major(octets(1, 96)),
    "x has 1 axes": lambda: rearrange(octets(4), "(a) (b)", "(b a)"),
}

STORED: dict[str, Call] = {
    "bytes=511 does not fit; give 512": lambda: untile(octets(511)),
    "rows=5 does not fit; give 4": lambda: grouped(octets(5, 4), 0, 4),
    "stored columns=65 d": lambda: hopper.unswizzle_scales(octets(8, 65), 4, 2),
    "stored rows=60 does": lambda: hopper.unswizzle_values(octets(60, 256), 4, 2),
    "stored words=2 does": lambda: deep_gemm.unpack_scales(words(2, 4), 4, 9),
    "stored rows=8 does": lambda: deep_gemm.unpack_scales(words(3, 8), 4, 9),
    "codes per row=16 does": lambda: int4.unpack_compressed_tensors(words(1, 2), 20),
}

TYPES: tuple[Call, ...] = (
    lambda: nibbles.pack(words(2)),
    lambda: nibbles.unpack(words(2)),
    lambda: scale_tiles.swizzle_8x4(words(5, 4)),
    lambda: sm90_mixed.interleave_weights(words(16, 32)),
    lambda: hopper.swizzle_values(words(16, 32)),
    lambda: marlin.unpack_weights(ROWS),
    lambda: marlin.permute_scales(words(64, 2)),
    lambda: s0e5m3.encode(words(1)),
    lambda: deep_gemm.pack_scales(words(4, 1)),
    lambda: int4.excess_8(ROWS),
    lambda: int4.unpack_gptq(ROWS),
)


@pytest.mark.parametrize("says", [*VALUES, *SIZES, *STORED])
def test_layouts_refuse_with_a_remedy(says: str) -> None:
    with pytest.raises(ValueError, match=says):
        (VALUES | SIZES | STORED)[says]()


@pytest.mark.parametrize("call", TYPES)
def test_layouts_refuse_other_types(call: Call) -> None:
    with pytest.raises(TypeError, match=r"the tensor is \w+; view or convert it to"):
        call()


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_refuse_sizes_that_are_no_multiple(name: str) -> None:
    layout = LAYOUTS[name]
    for axis, multiple in enumerate(layout.multiple):
        if multiple == 1 or (
            axis == 1 and name.startswith("marlin") and "scales" in name
        ):
            continue
        shape = list(layout.multiple)
        shape[axis] += 1
        with pytest.raises(ValueError, match="multiple"):
            layout.forward(octets(*shape))


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_know_their_name(name: str) -> None:
    assert get(name) is LAYOUTS[name]
    assert LAYOUTS[name].name == name
    assert LAYOUTS[name].used_by
