"""What a layout asks of its input, refused in one wording."""

from __future__ import annotations

import torch


def axes(layout: str, x: torch.Tensor, least: int) -> None:
    """Raise ValueError unless `x` has at least `least` axes."""
    if x.ndim < least:
        raise ValueError(
            f"{layout}: the tensor has {x.ndim} axes; give at least {least} "
            f"(shape {tuple(x.shape)})"
        )


def dtype(layout: str, x: torch.Tensor, *allowed: torch.dtype) -> None:
    """Raise TypeError unless `x` has one of the dtypes `allowed`."""
    if x.dtype not in allowed:
        names = " or ".join(str(kind).removeprefix("torch.") for kind in allowed)
        raise TypeError(
            f"{layout}: the tensor is {str(x.dtype).removeprefix('torch.')}; "
            f"view or convert it to {names}"
        )


def multiple(layout: str, what: str, size: int, of: int) -> None:
    """Raise ValueError unless `size` is a multiple of `of`."""
    if size % of:
        raise ValueError(
            f"{layout}: {what}={size} is no multiple of {of}; "
            f"pad to {size + -size % of}"
        )


def size(layout: str, what: str, got: int, want: int) -> None:
    """Raise ValueError unless `got` is the `want` that fits everything else."""
    if got != want:
        raise ValueError(f"{layout}: {what}={got} does not fit; give {want}")
