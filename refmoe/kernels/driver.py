"""Launches on a GPU: CuPy's loaded kernels, PyTorch's device and stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from refmoe.kernels import loader
from refmoe.kernels.arguments import Argument, Frame

if TYPE_CHECKING:
    from refmoe.kernels.launch import Kernel, Size

#: CUDA_ERROR_INVALID_CONTEXT: nothing has touched the GPU in this thread yet.
_NO_CONTEXT = 201


class Cuda:
    """Launches through CuPy's driver interface on the current PyTorch stream."""

    kind = "cuda"

    def target(self, device: torch.device) -> str:
        """The GPU's, or $REFMOE_TARGET."""
        return loader.target_for(device.index or 0)

    def run(
        self, kernel: Kernel, grid: Size, block: Size, arguments: Sequence[Argument],
        shared: int, device: torch.device,
    ) -> None:  # fmt: skip
        """Launch asynchronously."""
        index = device.index or 0
        loaded = loader.function(kernel.file, kernel.expression, index, shared)
        if index == torch.cuda.current_device():
            _launch(loaded, index, grid, block, arguments, shared)
            return
        with torch.cuda.device(index):
            _launch(loaded, index, grid, block, arguments, shared)


def _launch(
    loaded: loader.Loaded, index: int, grid: Size, block: Size,
    arguments: Sequence[Argument], shared: int,
) -> None:  # fmt: skip
    frame = Frame.of(arguments)
    stream = torch._C._cuda_getCurrentRawStream(index)
    call = (loaded.handle, *grid, *block, shared, stream, frame.pointers, 0)
    try:
        loaded.launch(*call)
    except Exception as error:  # CuPy's CUDADriverError, which is not imported here
        if getattr(error, "status", None) != _NO_CONTEXT:
            raise
        import cupy

        cupy.cuda.runtime.setDevice(index)
        loaded.launch(*call)
    frame.give_back()


@dataclass(frozen=True, slots=True)
class _Handle:
    """A raw stream under the protocol by which libraries hand streams over."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


#: Kept for good: CuPy destroys the stream behind a wrapper that is dropped.
_streams: dict[int, Any] = {}


def current_stream(index: int) -> Any:
    """PyTorch's current stream on a device, as CuPy takes it."""
    handle = torch._C._cuda_getCurrentRawStream(index)
    stream = _streams.get(handle)
    if stream is None:
        stream = _streams[handle] = _wrap(handle)
    return stream


def _wrap(handle: int) -> Any:
    import cupy

    return cupy.cuda.Stream.from_external(_Handle(handle))
