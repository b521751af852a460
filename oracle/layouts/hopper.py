"""triton_kernels' layouts of MXFP4 weights and scales on Hopper (and Ampere).

Names there: HopperMXValueLayout, HopperMXScaleLayout. N is the axis that is not
reduced; triton_kernels stores the same bytes transposed when K is its first axis.
"""

from __future__ import annotations

import torch

from oracle.layouts import bits, require
from oracle.layouts.edges import cut, extend, raised
from oracle.layouts.rearrange import rearrange
from oracle.spec import choose

_VALUES = "(n w t s) (k x v u c)"
_SWIZZLED = "(n t) (k s u x v w c)"


def _value_sizes(mma: int) -> dict[str, int]:
    choose("hopper_values", "mma", mma, (2, 3))
    wide = 4 if mma == 2 else 1
    return {"w": 2, "t": 4, "s": 2, "x": 4 // wide, "v": 2, "u": 4, "c": wide}


def swizzle_values(packed: torch.Tensor, mma: int = 3, pad: int = 0) -> torch.Tensor:
    """Group the bytes that one thread needs for four matrix instructions along K.

    Shapes: packed u8[..., N, K / 2], low nibble first -> u8[..., Np / 4, 2 Kp], with N
    raised to a multiple of 256 and K / 2 to one of 64; new bytes hold `pad`

    mma=3 (Hopper), before the bits move: byte (n, b) stands at row n // 16 * 4 + n % 8
    // 2, byte (b // 32 * 2 + n % 2) * 64 + b % 4 * 16 + b // 8 % 4 * 4 + b // 4 % 2 * 2
    + n // 8 % 2. mma=2 keeps runs of 4 bytes along K. Then the bits of every 4 bytes
    move as `bits.FP4_FOR_BF16` says.
    """
    sizes = _value_sizes(mma)
    require.dtype("hopper_values", packed, torch.uint8)
    padded = extend("hopper_values", packed, 256, 64, pad)
    return bits.move(rearrange(padded, _VALUES, _SWIZZLED, **sizes), bits.FP4_FOR_BF16)


def unswizzle_values(
    swizzled: torch.Tensor, rows: int, columns: int, mma: int = 3
) -> torch.Tensor:
    """Undo `swizzle_values`, dropping the padding.

    Shapes: swizzled u8[..., Np / 4, 2 Kp] -> u8[..., rows, columns] (columns of bytes)
    """
    sizes = _value_sizes(mma)
    _stored("hopper_values", swizzled, raised(rows, 256), raised(columns, 64), 4)
    octets = bits.move(swizzled, bits.inverse(bits.FP4_FOR_BF16))
    full = rearrange(octets, _SWIZZLED, _VALUES, **sizes)
    return cut(full, rows, columns)


_SCALES = "(n i w h r) (k e)"
_FOLDED = "(n w) (k i r e h)"


def swizzle_scales(scales: torch.Tensor, warps: int = 8, pad: int = 0) -> torch.Tensor:
    """Fold 32 rows of scales into one, in the order in which warps read them.

    Shapes: scales u8[..., N, K / 32] -> u8[..., Np / 32, 32 Kp], with N raised to a
    multiple of 32 `warps` and K / 32 to an even number; new bytes hold `pad`

    With r = n % (32 warps): byte (n, k) stands at row n // (32 warps) * warps + r % (16
    warps) // 16, byte k // 2 * 64 + r // (16 warps) * 32 + r % 8 * 4 + k % 2 * 2 + r %
    16 // 8.
    Raises ValueError unless `warps` is a power of two.
    """
    _warps(warps)
    require.dtype("hopper_scales", scales, torch.uint8)
    padded = extend("hopper_scales", scales, 32 * warps, 2, pad)
    return rearrange(padded, _SCALES, _FOLDED, i=2, w=warps, h=2, r=8, e=2)


def unswizzle_scales(
    folded: torch.Tensor, rows: int, columns: int, warps: int = 8
) -> torch.Tensor:
    """Undo `swizzle_scales`, dropping the padding.

    Shapes: folded u8[..., Np / 32, 32 Kp] -> u8[..., rows, columns]
    """
    _warps(warps)
    _stored("hopper_scales", folded, raised(rows, 32 * warps), raised(columns, 2), 32)
    full = rearrange(folded, _FOLDED, _SCALES, i=2, w=warps, h=2, r=8, e=2)
    return cut(full, rows, columns)


def _warps(warps: int) -> None:
    if warps < 1 or warps & (warps - 1):
        raise ValueError(
            f"hopper_scales: warps={warps} is no power of two; give the kernel's warps"
        )


def _stored(layout: str, x: torch.Tensor, rows: int, columns: int, fold: int) -> None:
    """Refuse a stored tensor that is not [rows / fold, columns * fold]."""
    require.dtype(layout, x, torch.uint8)
    require.axes(layout, x, 2)
    require.size(layout, "stored rows", x.shape[-2], rows // fold)
    require.size(layout, "stored columns", x.shape[-1], columns * fold)
