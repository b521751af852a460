"""Where one tensor of a launch lies, and how the bytes there tell what happened."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Bytes of what buffers are filled with: NaN in every float type and none that torch
#: makes (its bf16 NaN is all ones); all ones; 10000, for kernels that swallow NaN.
POISONS = ("payload", "ones", "large")


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes `start` to `stop` hold a tensor: at first `original` (None: poison)."""

    name: str
    argument: str
    like: torch.Tensor
    start: int
    stop: int
    original: torch.Tensor | None = None

    def view(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor: one of its own, as views of one base share their version."""
        like = self.like
        own = torch.empty(0, dtype=like.dtype, device=memory.device)
        storage, start = memory.untyped_storage(), self.start // like.dtype.itemsize
        return own.set_(storage, start, like.shape, like.stride())

    def changed(self, image: torch.Tensor) -> str | None:
        """The sentence about the first byte that differs from the original."""
        part = image[self.start : self.stop]
        if self.original is None or torch.equal(part, self.original):
            return None
        byte = int((part != self.original).nonzero()[0])
        shape, steps = self.like.shape, self.like.stride()
        element, index = byte // self.like.dtype.itemsize, [0] * len(shape)
        for axis in sorted(range(len(shape)), key=lambda axis: -steps[axis]):
            if shape[axis] > 1 and steps[axis]:
                index[axis], element = divmod(element, steps[axis])
        if element or any(i >= n for i, n in zip(index, shape, strict=True)):
            return f"the call wrote between the rows of its argument {self.name}"
        return (
            f"the call changed its argument {self.name} at {index}; declare "
            f"mutates=({self.argument!r},) if that is meant"
        )


def span(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes from the first element to the last, what lies between included."""
    if not tensor.numel():
        return torch.empty(0, dtype=torch.uint8)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    reach = sum((size - 1) * step for size, step in steps)
    line = tensor.detach().as_strided((reach + 1,), (1,), tensor.storage_offset())
    return line.view(torch.uint8).cpu()


def poison(kind: str, dtype: torch.dtype) -> torch.Tensor:
    """The bytes u8[size] of one poisoned element, little end first."""
    size = dtype.itemsize
    if kind == "ones":
        return torch.full((size,), 0xFF, dtype=torch.uint8)
    if kind == "large":
        value = 1e4 if size > 1 else 100
        return torch.tensor([value], dtype=dtype).view(torch.uint8)
    high = 2 if size == 8 else 1
    return torch.tensor([0xA5] * (size - high) + [0xFF] * high, dtype=torch.uint8)
