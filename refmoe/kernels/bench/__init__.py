"""How fast the kernels are on this GPU: `refmoe bench --kernels`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from refmoe.kernels.bench.clock import Time, bandwidth
from refmoe.kernels.bench.compiling import compiling
from refmoe.kernels.bench.host import launches
from refmoe.kernels.bench.memory import memory_bound
from refmoe.kernels.bench.routing import product_keys, routers


def run() -> Iterator[Time]:
    """Every group of times on the current GPU, each as it is measured.

    Raises OSError without a GPU.
    """
    if not torch.cuda.is_available():
        raise OSError(
            "bench: PyTorch sees no GPU (torch.cuda.is_available() is False), and the "
            "kernels' times are a GPU's; run it on a machine with one, with a CUDA "
            "build of PyTorch"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    copied = bandwidth(device)
    yield Time("copy of 256 MiB", copied / 1e12, "TB/s")
    groups: tuple[Callable[[], Iterator[Time]], ...] = (
        lambda: memory_bound(device, copied),
        lambda: routers(device),
        lambda: product_keys(device),
        lambda: launches(device),
        lambda: compiling(device),
    )
    for group in groups:
        yield from group()
