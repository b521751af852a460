"""What stored codes and scales are taken for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.functional import pad

from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Hypothesis, Place

_OPS = ("dequantize", "grouped_gemm", "experts", "moe")


def _hypothesis(
    name: str, about: str, change: Callable[[Blocks], Blocks | None]
) -> Hypothesis:
    return Hypothesis(name, about, changes.blocks(change), ops=_OPS)


def _element(element: str, instead_of: str) -> Callable[[Blocks], Blocks | None]:
    def changed(stored: Blocks) -> Blocks | None:
        if stored.format.element != instead_of:
            return None
        form: BlockFormat = replace(stored.format, element=element)
        return replace(stored, format=form)

    return changed


def _bytes(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Blocks], Blocks | None]:
    """Other scale bytes, where scales are powers of two."""

    def changed(stored: Blocks) -> Blocks | None:
        if stored.format.scale != "e8m0":
            return None
        scales = change(stored.scales.long()).clamp(0, 255)
        return replace(stored, scales=scales.to(stored.scales.dtype))

    return changed


def _scales(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Blocks], Blocks | None]:
    return lambda stored: replace(stored, scales=change(stored.scales))


def _nibbles(stored: Blocks) -> Blocks | None:
    codes = stored.codes
    if stored.format.element not in ("e2m1", "int4") or codes.shape[-1] % 2:
        return None
    return replace(
        stored, codes=codes.reshape(*codes.shape[:-1], -1, 2).flip(-1).flatten(-2)
    )


def _tile_order(rows: int, columns: int) -> torch.Tensor:
    """Where a tile of 128 x 4 scales holds each scale, padding left out."""
    place = torch.arange(rows * columns).reshape(rows, columns)
    place = pad(place, (0, -columns % 4, 0, -rows % 128), value=-1)
    tiles = place.reshape(place.shape[0] // 128, 4, 32, -1, 4)
    order: torch.Tensor = tiles.permute(0, 3, 2, 1, 4).flatten()
    return order[order >= 0]


def _as_if_tiled(scales: torch.Tensor) -> torch.Tensor:
    order = _tile_order(*scales.shape[-2:])
    return scales.flatten(-2)[..., order].reshape(scales.shape)


def _as_if_linear(scales: torch.Tensor) -> torch.Tensor:
    inverse = _tile_order(*scales.shape[-2:]).argsort()
    return scales.flatten(-2)[..., inverse].reshape(scales.shape)


def _padded_stride(stored: Blocks) -> Blocks | None:
    rows, columns = stored.scales.shape[-2:]
    width = stored.format.block[1] or stored.codes.shape[-1]
    stride = -(-stored.codes.shape[-1] // 256) * 256 // width
    if stride in (0, columns):
        return None
    place = torch.arange(rows)[:, None] * stride + torch.arange(columns)
    last = rows * columns - 1
    moved = stored.scales.flatten(-2)[..., place.clamp(max=last)]
    return replace(stored, scales=moved)


def _too_fast(stored: Blocks) -> Blocks | None:
    rows, columns = stored.format.block
    if columns <= 32 or not stored.scales.numel():
        return None
    tiles = torch.arange(-(-stored.codes.shape[-1] // 32))
    taken = stored.scales[..., tiles.clamp(max=stored.scales.shape[-1] - 1)]
    return replace(
        stored, scales=taken, format=replace(stored.format, block=(rows, 32))
    )


def _powers(stored: Blocks) -> Blocks | None:
    if not stored.scales.is_floating_point():
        return None
    exponent = torch.frexp(stored.scales.double()).exponent
    power = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent)
    return replace(stored, scales=power.to(stored.scales.dtype))


def _last_scale(stored: Blocks) -> Blocks | None:
    if stored.format.scale != "e8m0" or not stored.scales.numel():
        return None
    scales = stored.scales.clone()
    scales.reshape(-1)[-1:] += 1
    return replace(stored, scales=scales)


def _no_global(stored: Blocks) -> Blocks | None:
    one = stored.global_scale
    return None if one is None else replace(stored, global_scale=torch.ones_like(one))


def _first_global(stored: Blocks) -> Blocks | None:
    own = stored.global_scale
    if own is None or own.numel() < 2:
        return None
    return replace(stored, global_scale=own.reshape(-1)[0].expand_as(own).contiguous())


def _zero_at_byte_0(place: Place, tap: Tap) -> Tap:
    stored = place.inputs["blocks"]
    if stored.format.scale != "e8m0":
        return tap
    rows, columns = stored.format.block
    empty = (stored.scales == 0).repeat_interleave(columns or tap.value.shape[-1], -1)
    if rows > 1:
        empty = empty.repeat_interleave(rows, -2)
    empty = empty[..., : tap.value.shape[-2], : tap.value.shape[-1]]
    return Tap(tap.value.masked_fill(empty, 0.0))


HYPOTHESES = (
    _hypothesis("nibbles_swapped", "the codes of a byte change places", _nibbles),
    _hypothesis(
        "scale_byte_low", "scales decode half as large", _bytes(lambda b: b - 1)
    ),
    _hypothesis(
        "scale_byte_high", "scales decode twice as large", _bytes(lambda b: b + 1)
    ),
    _hypothesis("no_global_scale", "the scale of the tensor is left out", _no_global),
    _hypothesis(
        "global_scale_of_expert_0",
        "all experts' weights get the tensor scale of expert 0",
        _first_global,
    ),
    _hypothesis(
        "scales_read_as_tiled",
        "linear scales are read as if in tiles of 128 x 4",
        _scales(_as_if_tiled),
    ),
    _hypothesis(
        "scales_read_as_linear",
        "scales in tiles of 128 x 4 are read as if they were linear",
        _scales(_as_if_linear),
    ),
    _hypothesis(
        "scales_of_the_block_before",
        "every block has the scale of the one before it",
        _scales(lambda scales: scales.roll(1, -1)),
    ),
    _hypothesis(
        "scales_of_the_row_before",
        "every row has the scales of the one before it",
        _scales(lambda scales: scales.roll(1, -2)),
    ),
    _hypothesis(
        "scales_by_padded_stride",
        "rows of scales are taken to be as long as K padded to 256 needs",
        _padded_stride,
    ),
    _hypothesis(
        "scales_consumed_too_fast",
        "a scale is used for 32 columns, though its block is wider",
        _too_fast,
    ),
    _hypothesis(
        "scales_rounded_to_powers", "scales are rounded up to powers of two", _powers
    ),
    _hypothesis("last_scale", "the very last scale is a step too large", _last_scale),
    _hypothesis("e5m2_as_e4m3", "E5M2 codes decode as E4M3", _element("e4m3", "e5m2")),
    _hypothesis("e4m3_as_e5m2", "E4M3 codes decode as E5M2", _element("e5m2", "e4m3")),
    _hypothesis(
        "byte_255_is_finite",
        "the NaN scale decodes as a finite one",
        _bytes(lambda b: b.clamp(max=254)),
    ),
    Hypothesis(
        "byte_0_is_zero",
        "the scale byte 0 decodes as zero",
        alter={"values": _zero_at_byte_0},
        ops=("dequantize",),
    ),
    _hypothesis(
        "byte_134_is_nan",
        "a scale of 128 is taken for NaN",
        _bytes(lambda b: b.masked_fill(b == 134, 255)),
    ),
)
