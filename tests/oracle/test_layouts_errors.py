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


REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (
        lambda: get("sm90_fp5"),
        ValueError,
        "'sm90_fp5' is unknown; did you mean sm90_fp4",
    ),
    (
        lambda: nibbles.pack(octets(3)),
        ValueError,
        "codes=3 is no multiple of 2; pad to 4",
    ),
    (
        lambda: nibbles.pack(octets(2) + 16),
        ValueError,
        "code 16 needs more than 4 bits",
    ),
    (
        lambda: nibbles.pack(words(2)),
        TypeError,
        "is int32; view or convert it to uint8",
    ),
    (lambda: nibbles.pack(octets(2), "big"), ValueError, "order='big' is unknown"),
    (lambda: nibbles.unpack(words(2)), TypeError, "is int32"),
    (lambda: bits.move(octets(6), bits.FP4_FOR_FP8), ValueError, "pad to 8"),
    (
        lambda: gate_up.arrange(octets(7, 1), "up_gate"),
        ValueError,
        "rows=7 is no multip",
    ),
    (lambda: gate_up.arrange(octets(24, 1), "groups_8"), ValueError, "pad to 32"),
    (lambda: gate_up.canonical(octets(4, 1), "mixed"), ValueError, "order='mixed'"),
    (
        lambda: scale_tiles.swizzle_128x4(octets(5)),
        ValueError,
        "has 1 axes; give at le",
    ),
    (
        lambda: scale_tiles.swizzle_128x4(octets(5, 4), 256),
        ValueError,
        "pad=256 is no by",
    ),
    (
        lambda: scale_tiles.swizzle_128x4(octets(5, 4), 0, 6),
        ValueError,
        "column_multiple",
    ),
    (lambda: scale_tiles.swizzle_8x4(words(5, 4)), TypeError, "is int32"),
    (
        lambda: scale_tiles.unswizzle_128x4(octets(511), 5, 4),
        ValueError,
        "bytes=511 does not fit; give 512",
    ),
    (
        lambda: scale_tiles.swizzle_grouped(octets(5, 4), torch.tensor([0, 4])),
        ValueError,
        "rows=5 does not fit; give 4",
    ),
    (
        lambda: scale_tiles.blockscale_offsets(torch.tensor([0, 4, 3])),
        ValueError,
        "must start at 0 and not decrease",
    ),
    (
        lambda: scale_tiles.blockscale_offsets(torch.tensor([1, 4])),
        ValueError,
        "must start at 0 and not decrease",
    ),
    (
        lambda: sm90_mixed.interleave_weights(octets(24, 32)),
        ValueError,
        "rows=24 is no",
    ),
    (
        lambda: sm90_mixed.interleave_weights(octets(16, 48)),
        ValueError,
        r"bytes per row \(K / 2\)=48 is no multiple of 32; pad to 64",
    ),
    (
        lambda: sm90_mixed.deinterleave_weights(octets(16, 32), "fp8"),
        ValueError,
        "kind='fp8' is unknown",
    ),
    (lambda: sm90_mixed.interleave_scales(octets(96, 4)), ValueError, "pad to 128"),
    (
        lambda: sm90_mixed.interleave_scales(octets(64, 6)),
        ValueError,
        "scale columns=6",
    ),
    (lambda: sm90_mixed.interleave_scales(octets(64, 4), 48), ValueError, "group=48"),
    (
        lambda: sm90_mixed.interleave_scales(words(64, 4)),
        ValueError,
        "bytes per scale=4",
    ),
    (lambda: hopper.swizzle_values(octets(16, 32), mma=5), ValueError, "mma=5"),
    (
        lambda: hopper.swizzle_scales(octets(4, 2), warps=3),
        ValueError,
        "warps=3 is no po",
    ),
    (
        lambda: hopper.unswizzle_scales(octets(8, 65), 4, 2),
        ValueError,
        "stored columns=65 does not fit; give 64",
    ),
    (
        lambda: hopper.unswizzle_values(octets(60, 256), 4, 2),
        ValueError,
        "stored rows=60 does not fit; give 64",
    ),
    (
        lambda: marlin.pack_weights(octets(32, 32)),
        ValueError,
        "rows=32 is no multiple of",
    ),
    (
        lambda: marlin.pack_weights(octets(64, 24)),
        ValueError,
        "columns=24 is no multiple",
    ),
    (lambda: marlin.pack_weights(octets(64, 16), 8), ValueError, "pad to 32"),
    (lambda: marlin.pack_weights(octets(64, 16), 4), ValueError, "activation_bits=4"),
    (lambda: marlin.unpack_weights(octets(1, 128)), TypeError, "is uint8"),
    (lambda: marlin.permute_scales(octets(64, 1)), ValueError, "scales of 1 groups"),
    (
        lambda: marlin.permute_scales(octets(64, 2) + 250, 8),
        ValueError,
        "scale byte 250 exceeds 249",
    ),
    (lambda: marlin.permute_bias(octets(40)), ValueError, "axis of 40 does not split"),
    (lambda: s0e5m3.encode(words(1)), TypeError, "is int32"),
    (
        lambda: s0e5m3.global_scale(torch.ones(1), "fp8"),
        ValueError,
        "activation='fp8' is unknown; use one of 'bf16', 'fp16'",
    ),
    (
        lambda: deep_gemm.mn_major_scales(octets(4, 1)),
        TypeError,
        "is uint8; view or conv",
    ),
    (lambda: deep_gemm.pack_scales(words(4, 1)), TypeError, "is int32"),
    (
        lambda: deep_gemm.unpack_scales(words(2, 4), 4, 9),
        ValueError,
        "stored words=2 does not fit; give 3",
    ),
    (
        lambda: deep_gemm.unpack_scales(words(3, 8), 4, 9),
        ValueError,
        "stored rows=8 does not fit; give 4",
    ),
    (
        lambda: deep_gemm.transpose_for_utccp(words(1, 96)),
        ValueError,
        "rows=96 is no mul",
    ),
    (
        lambda: int4.excess_8(torch.tensor([8], dtype=torch.int8)),
        ValueError,
        "code 8 is outside -8 to 7",
    ),
    (
        lambda: int4.pack_gptq(octets(4, 12)),
        ValueError,
        "columns=12 is no multiple of 8",
    ),
    (lambda: int4.pack_awq(octets(4, 8)), ValueError, "rows=4 is no multiple of 8"),
    (
        lambda: int4.pack_gptq_zeros(octets(4, 1)),
        ValueError,
        "rows=4 is no multiple of 8",
    ),
    (
        lambda: int4.unpack_compressed_tensors(words(1, 2), 20),
        ValueError,
        "codes per row=16 does not fit; give 24",
    ),
    (
        lambda: trtllm_gen.shuffle_rows(octets(48, 1)),
        ValueError,
        "rows=48 is no multiple",
    ),
    (
        lambda: trtllm_gen.block_major(octets(1, 96)),
        ValueError,
        "columns=96 is no multip",
    ),
    (lambda: trtllm_gen.row_major(octets(1, 96)), ValueError, "give at least 3"),
    (
        lambda: rearrange(octets(4), "(a b)", "(b a)"),
        ValueError,
        "sizes of all but one",
    ),
    (lambda: rearrange(octets(4), "(a)", "(b)"), ValueError, "name different parts"),
    (lambda: rearrange(octets(4), "(a) (b)", "(b a)"), ValueError, "x has 1 axes"),
]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    REFUSED,
    ids=[f"{number}-{says[:24]}" for number, (_, _, says) in enumerate(REFUSED)],
)
def test_layouts_refuse_with_a_remedy(
    call: Callable[[], object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
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
