"""A stream that waits while the GPU is free for others."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch

#: Cycles of a GPU in a microsecond, about.
_CYCLES = 2000


def hold(stream: torch.cuda.Stream, cycles: int) -> None:
    """Let what comes next on the stream, which is the current one, wait.

    The driver sleeps in the stream's turn: a kernel that waited would keep the GPU from
    every other process that shares it. Where it cannot, such a kernel waits.
    """
    sleep = _sleeper()
    if sleep is None or sleep(stream.cuda_stream, cycles // _CYCLES):
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


@cache
def _sleeper() -> Callable[[int, int], int] | None:
    """A function of a stream and microseconds; it returns 0, or the driver's error.

    The C library's `usleep` is called by the driver itself. A function in Python would
    need the interpreter's lock, which a port that waits for its stream may hold.
    """
    try:
        launch = ctypes.CDLL("libcuda.so.1").cuLaunchHostFunc
        sleep = ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p)
    except (OSError, AttributeError):
        return None
    launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]

    def queued(stream: int, microseconds: int) -> int:
        return int(launch(stream, sleep, microseconds))

    return queued
