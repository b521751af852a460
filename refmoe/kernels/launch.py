"""What stands between a PyTorch call and a kernel: checks, stream, launch.

A launcher checks every tensor, allocates the outputs with PyTorch and calls a `Kernel`.
It never synchronises, and after `warm_up` it neither compiles nor loads: a call can be
captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch

from refmoe.kernels.arguments import Argument
from refmoe.kernels.driver import Cuda

Size = tuple[int, int, int]

#: The most blocks that a grid may have along x; y and z end at 65,535.
GRID_LIMIT = 2**31 - 1


class Backend(Protocol):
    """Runs kernels on tensors of devices of one kind."""

    kind: str

    def target(self, device: torch.device) -> str:
        """What kernels are compiled for on `device`."""

    def run(
        self, kernel: Kernel, grid: Size, block: Size,
        arguments: Sequence[Argument], shared: int, device: torch.device,
    ) -> None:  # fmt: skip
        """Launch; each argument becomes one parameter of the kernel."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of a .cu file: a function's name with its template arguments."""

    file: str
    expression: str

    def __call__(
        self, grid: int | tuple[int, ...], block: int, *arguments: Argument,
        device: torch.device, shared: int = 0,
    ) -> None:  # fmt: skip
        """Launch on the current stream of `device`; an empty grid launches nothing.

        What becomes of arguments: `refmoe.kernels.arguments`.
        """
        sizes = (grid,) if isinstance(grid, int) else grid
        if 0 in sizes:
            return
        if sizes[0] > GRID_LIMIT or max(sizes[1:], default=0) > 65535:
            raise ValueError(
                f"{self.expression}: a grid of {sizes} blocks exceeds ({GRID_LIMIT}, "
                "65535, 65535); split the input along its first axis"
            )
        x, y, z = (*sizes, 1, 1)[:3]
        current().run(self, (x, y, z), (block, 1, 1), arguments, shared, device)


_GPU: Backend = Cuda()
_current = ContextVar("_current", default=_GPU)
#: Where the launches of this thread go.
current = _current.get


@contextmanager
def through(backend: Backend) -> Iterator[None]:
    """Within it, every launch of this thread goes to `backend`."""
    before = _current.set(backend)
    try:
        yield
    finally:
        _current.reset(before)


def is_tensor(op: str, name: str, value: object) -> torch.Tensor:
    """`value`; TypeError unless it is a tensor."""
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        raise TypeError(f"{op}: {name} is a {kind}; give a torch.Tensor")
    return value


def check(
    op: str,
    name: str,
    tensor: torch.Tensor,
    dtypes: Sequence[torch.dtype],
    shape: Sequence[int | None],
    device: torch.device | None = None,
) -> torch.Tensor:
    """`tensor`, if a kernel may read it as it lies; a clear error otherwise.

    None in `shape` accepts any size along that axis; without `device`, any device of
    the backend's kind will do.

    Raises TypeError for a value that is no tensor or a type that is not in `dtypes`,
    ValueError for another shape, device or a non-contiguous layout.
    """
    is_tensor(op, name, tensor)
    if tensor.dtype not in dtypes:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        got = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{op}: {name} is {got}; convert it to {wanted}")
    fits = tensor.ndim == len(shape) and all(
        want is None or have == want
        for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}; it must be [{wanted}]"
        )
    if device is None:
        kind = current().kind
        if tensor.device.type != kind:
            raise ValueError(
                f"{op}: {name} is on {tensor.device}; move it to a {kind} device"
            )
    elif tensor.device != device:
        raise ValueError(
            f"{op}: {name} is on {tensor.device}, the other tensors are on {device}; "
            "move it there"
        )
    if not tensor.is_contiguous():
        raise ValueError(
            f"{op}: {name} has strides {tensor.stride()} for shape "
            f"{tuple(tensor.shape)}; pass {name}.contiguous()"
        )
    return tensor


def aligned(size: int, *tensors: torch.Tensor) -> bool:
    """Whether all `tensors` start at a multiple of `size` bytes."""
    return all(tensor.data_ptr() % size == 0 for tensor in tensors)


def blocks_for(items: int, per_block: int) -> int:
    """How many blocks cover `items`."""
    return -(-items // per_block)
