"""The last two axes raised to multiples, and cut back."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from oracle.layouts import require


def raised(size: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `size`."""
    return size + -size % multiple


def extend(
    layout: str, x: torch.Tensor, rows: int, columns: int, fill: float = 0
) -> torch.Tensor:
    """Append `fill` until the last two axes are multiples of `rows` and `columns`.

    Shapes: x [..., M, K] -> [..., raised(M, rows), raised(K, columns)]
    Raises ValueError for fewer than two axes, or a fill that u8 cannot hold.
    """
    require.axes(layout, x, 2)
    if x.dtype == torch.uint8 and not 0 <= fill <= 255:
        raise ValueError(f"{layout}: pad={fill} is no byte; give one in 0 to 255")
    m, k = x.shape[-2:]
    return pad(x, (0, -k % columns, 0, -m % rows), value=fill)


def cut(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The first `rows` by `columns` of the last two axes, contiguous."""
    return x[..., :rows, :columns].contiguous()
