"""Quantise to a block format, and back."""

from __future__ import annotations

import torch

from oracle.blocks.elements import codes_of
from oracle.blocks.grid import Grid, peaks
from oracle.blocks.presets import preset
from oracle.blocks.scales import (
    Scales,
    choose_scales,
    is_power,
    nan_scale,
    scale_value,
    scaled_by,
)
from oracle.blocks.whole import global_scales, kept_scale, per_group, spread_global
from oracle.formats import get
from oracle.formats.codes import check_codes, value_table
from oracle.params import Blocks
from oracle.spec import BlockFormat

_SOURCES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def quantize(
    x: torch.Tensor,
    format: BlockFormat | str,
    *,
    axis: int = -1,
    global_scale: torch.Tensor | float | None = None,
) -> Blocks:
    """Codes and scales of `x` under `format`.

    Shapes: x f64, f32, bf16 or fp16 [..., N, K] or [K] -> codes of the same shape, and
    scales with the axes counted in blocks

    Blocks run along `axis`; their rows, where the format has more than one, along the
    last of the other axes. Under a power-of-two scale code = round(x / scale) exactly.
    Under any other scale x and the scale meet in one fp32 operation, as kernels do.
    `global_scale` (what decoding multiplies by) is one number or one per leading index;
    None computes it from the amax of each [N, K].

    A NaN or infinity raises ValueError; with ``nonfinite="propagate"`` it makes its
    whole block NaN; with ``"saturate"`` NaN stays out of amax and becomes the element's
    NaN (or its stand-in), and infinity the largest value.

    Raises TypeError for other types of x; ValueError for unknown formats, axes that do
    not divide into blocks, or a global scale that the format lacks.

    >>> b = quantize(torch.tensor([[7.0, 1.0] + [0.0] * 30]), "mxfp4:rceil")
    >>> b.scales.tolist(), b.codes[0, :3].tolist()
    ([[128]], [6, 1, 0])
    """
    format = preset(format) if isinstance(format, str) else format
    if x.dtype not in _SOURCES:
        raise TypeError(
            f"quantize: x is {x.dtype}; give float64, float32, bfloat16 or float16"
        )
    grid = Grid.of(x.shape, format, axis)
    tiles = grid.cut(_narrowed(x.detach()))
    amax = peaks(tiles, grid)
    broken = ~amax.isfinite()
    clean = not bool(broken.any())
    if not clean:
        amax = _without_nonfinite(tiles, amax, broken, grid, format)
    whole = global_scales(amax, grid, format, global_scale)
    scales = choose_scales(amax, format, per_group(whole, grid))
    codes = encode_tiles(tiles, scales, grid, format)
    stored = scales.stored
    if not clean and format.nonfinite == "propagate":
        stored = stored.masked_fill(broken, nan_scale(format))
        codes.masked_fill_(broken[:, None, :, None], 0)
    return Blocks(
        grid.join(codes).contiguous(),
        grid.spread(stored).contiguous(),
        format,
        kept_scale(whole, grid),
    )


def dequantize(
    blocks: Blocks, *, axis: int = -1, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """The values that `blocks` stand for: code * scale [* global scale].

    Shapes: blocks of [..., N, K] -> f64[..., N, K]

    Exact in float64; with ``dtype=torch.float32`` rounded once to it. A NaN scale makes
    its whole block NaN; an E8M0 byte of 0 is 2^-127. `axis` is that of `quantize`.

    Raises ValueError where codes and scales do not fit; TypeError for other dtypes.
    """
    format = blocks.format
    if dtype not in (torch.float64, torch.float32):
        raise TypeError(f"dequantize: dtype={dtype}; take torch.float64 or float32")
    grid = Grid.of(blocks.codes.shape, format, axis)
    tiles = grid.cut(blocks.codes)
    value = scale_value(grid.gather(blocks.scales), format)
    work = dtype
    if format.global_scale:
        if blocks.global_scale is None:
            raise ValueError(
                f"dequantize: {format.name} needs a global scale; the blocks have none"
            )
        value = value * spread_global(blocks.global_scale, grid)
        work = torch.float64
    value = value.to(work)
    check_codes(blocks.codes, format.element)
    table = value_table(format.element, tiles.device, work)
    out = torch.empty(tiles.shape, dtype=work, device=tiles.device)
    # Only a negative code has bits above the table: those of its sign.
    narrow, mask = tiles.dtype is torch.uint8, len(table) - 1
    for part in grid.chunks(tiles.shape[0]):
        index = tiles[part].to(torch.int32)
        if not narrow:
            index &= mask
        torch.index_select(table, 0, index.reshape(-1), out=out[part].view(-1))
        out[part] *= value[part][:, None, :, None]
    return grid.join(out).to(dtype)


def encode_tiles(
    tiles: torch.Tensor, scales: Scales, grid: Grid, format: BlockFormat
) -> torch.Tensor:
    """Codes of tiles under chosen scales, [G, r, C, c].

    A power of two scales bf16 and fp32 exactly, or to below their least normal number,
    where every element format has only zeros. Any other scale meets x in fp32.
    """
    work = tiles.dtype
    if work is torch.float16 or (work is torch.bfloat16 and not is_power(format)):
        work = torch.float32
    operand = scales.operand.to(work)
    storage = get(format.element).storage
    codes = torch.empty(tiles.shape, dtype=storage, device=tiles.device)
    for part in grid.chunks(tiles.shape[0]):
        meets = operand[part][:, None, :, None]
        scaled = scaled_by(tiles[part].to(work), meets, format)
        codes[part] = codes_of(scaled, format)
    return codes


def _narrowed(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32 where that holds it exactly: the same codes, found faster."""
    if x.dtype is not torch.float64:
        return x
    narrow = x.to(torch.float32)
    return narrow if torch.equal(narrow.to(torch.float64), x) else x


def _without_nonfinite(
    tiles: torch.Tensor,
    amax: torch.Tensor,
    broken: torch.Tensor,
    grid: Grid,
    format: BlockFormat,
) -> torch.Tensor:
    """amax with NaN and infinity treated as the format's policy says."""
    if format.nonfinite == "error":
        group, column = (int(i) for i in broken.nonzero()[0])
        raise ValueError(
            f"quantize: x has a NaN or infinity, first in block ({group}, {column}) of "
            f"{int(broken.sum())}; clean x, or take a format with "
            "nonfinite='propagate' or 'saturate'"
        )
    if format.nonfinite == "propagate":
        return amax.masked_fill(broken, 0.0)
    return peaks(tiles.masked_fill(tiles.isnan(), 0.0), grid)
