"""A stream waits by the driver's sleep, and by a kernel where there is none."""

from __future__ import annotations

import ctypes
import time
from types import SimpleNamespace

import pytest
import torch

from refmoe.guard import hold as module
from refmoe.guard.hold import hold

STREAM = SimpleNamespace(cuda_stream=7)
SLEEPER = module._sleeper.__wrapped__


def test_hold_has_the_driver_sleep_for_the_microseconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a wait that is none: a function of Python, a wrong unit or argument."""
    queued = []
    launched = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
    )

    def launch(stream: int, function: int, data: int) -> int:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(data)
        queued.append((stream, data))
        return 0

    driver = SimpleNamespace(cuLaunchHostFunc=launched(launch))
    real = ctypes.CDLL
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name: driver if name == "libcuda.so.1" else real(name)
    )
    monkeypatch.setattr(module, "_sleeper", SLEEPER)
    start = time.monotonic()
    hold(STREAM, 20_000_000)  # type: ignore[arg-type]
    assert time.monotonic() - start >= 0.01
    assert queued == [(7, 10_000)]


@pytest.mark.parametrize("status", [None, 801])
def test_hold_waits_on_the_gpu_where_the_driver_does_not(
    monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    waits: list[int] = []
    sleep = None if status is None else lambda stream, microseconds: status
    monkeypatch.setattr(module, "_sleeper", lambda: sleep)
    monkeypatch.setattr(torch.cuda, "_sleep", waits.append)
    hold(STREAM, 20_000_000)  # type: ignore[arg-type]
    assert waits == [20_000_000]


def test_hold_without_a_driver_finds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert SLEEPER() is None
