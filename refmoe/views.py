"""How tensors lie in memory: views that a kernel must not take for dense tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch

from oracle.params import Blocks, Params

#: Elements between two rows of a strided tensor, never to be read.
GAP = 8
#: Elements that keep a view's place within its 64-byte line, for every element type.
_LINE = 64


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with every tensor in it changed: a tensor, Blocks or Params."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Blocks | Params):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(
            value, **{name: mapped(part, change) for name, part in parts.items()}
        )
    return value


def laid_out(tensor: torch.Tensor, memory: str) -> torch.Tensor:
    """The same values, lying in memory as `memory` says (`refmoe.case.MEMORY`).

    strided: rows are GAP elements wider than they are; transposed: the last two axes
    change places; both leave tensors of one axis dense. offset: starts one element
    behind an aligned address. What lies between is 192, or -1 for integers.
    """
    if tensor.is_meta or memory == "contiguous":
        return tensor
    if memory == "offset":
        line = tensor.new_full((1 + tensor.numel(),), _unused(tensor.dtype))
        view = line[1:].view(tensor.shape)
    elif tensor.ndim < 2:
        return tensor
    elif memory == "transposed":
        return tensor.mT.contiguous().mT
    else:
        *lead, columns = tensor.shape
        wide = tensor.new_full((*lead, columns + GAP), _unused(tensor.dtype))
        view = wide[..., :columns]
    return view.copy_(tensor)


def copied(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """A copy on `device` that lies in memory as the original does.

    Shape, strides, place within a line and what lies between the rows are kept.
    """
    if tensor.is_meta:
        return tensor
    start = tensor.storage_offset() % _LINE
    if not tensor.numel() or (tensor.is_contiguous() and not start):
        return tensor.to(device, copy=True)
    reach = sum(
        (size - 1) * step
        for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )
    line = tensor.as_strided(
        (start + reach + 1,), (1,), tensor.storage_offset() - start
    )
    return line.to(device, copy=True).as_strided(tensor.shape, tensor.stride(), start)


def _unused(dtype: torch.dtype) -> float:
    """A value that shows in any result, and that no kernel refuses as it would NaN."""
    if dtype.is_floating_point:
        return 192.0
    return -1 if dtype.is_signed else 255
