"""Ports that are right but for tokens of one number, where they do something else."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from oracle.moe import trace

#: Tokens of the case at which a port fails.
FATAL = 17
ODDITIES: dict[str, Callable[[torch.Tensor], Any]] = {}


def _computed(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> torch.Tensor:
    return trace(layer, params, x, logits)["out"].value.to(x.dtype)


def _odd(function: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    ODDITIES[function.__name__.lstrip("_")] = function
    return function


def __getattr__(name: str) -> Any:
    """A port that does `name` with x; what that returns, if anything, is its result."""
    if name not in ODDITIES:
        raise AttributeError(name)

    def moe(x: torch.Tensor, logits: Any, params: Any, layer: Any) -> Any:
        out = _computed(x, logits, params, layer)
        if len(x) == FATAL:
            instead = ODDITIES[name](x)
            return out if instead is None else instead
        return out

    return SimpleNamespace(moe=moe, device="cpu")


@_odd
def _honest(x: torch.Tensor) -> None:
    return None


@_odd
def _segfaults(x: torch.Tensor) -> None:
    ctypes.string_at(0)


@_odd
def _aborts(x: torch.Tensor) -> None:
    os.abort()


@_odd
def _ends(x: torch.Tensor) -> None:
    print("these are its last words")
    os._exit(0)


@_odd
def _leaves(x: torch.Tensor) -> None:
    sys.exit(0)


@_odd
def _interrupts(x: torch.Tensor) -> None:
    raise KeyboardInterrupt


@_odd
def _raises(x: torch.Tensor) -> None:
    raise RuntimeError("no shared memory left")


@_odd
def _kills_itself(x: torch.Tensor) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@_odd
def _kills_the_nursery(x: torch.Tensor) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@_odd
def _hangs(x: torch.Tensor) -> None:
    time.sleep(3600)


@_odd
def _takes_all_memory(x: torch.Tensor) -> None:
    bytearray(1 << 40)


@_odd
def _takes_too_many_elements(x: torch.Tensor) -> None:
    torch.zeros(1 << 38)


@_odd
def _closes_files(x: torch.Tensor) -> None:
    os.closerange(3, 256)


@_odd
def _writes_everywhere(x: torch.Tensor) -> None:
    for file in range(3, 256):
        try:
            os.write(file, b"garbage")
        except OSError:
            continue


@_odd
def _forges_an_answer(x: torch.Tensor) -> None:
    frame = {"id": 1 << 30, "say": "end", "answer": None, "retire": False}
    for file in range(3, 256):
        try:
            os.write(file, json.dumps(frame).encode())
        except OSError:
            continue


@_odd
def _breaks_the_gpu(x: torch.Tensor) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@_odd
def _another_shape(x: torch.Tensor) -> torch.Tensor:
    return x[1:].clone()


@_odd
def _another_type(x: torch.Tensor) -> torch.Tensor:
    return x.double()


@_odd
def _another_device(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


@_odd
def _prints(x: torch.Tensor) -> None:
    print("progress " * 10_000)
    print("more", file=sys.stderr)
    os.write(1, b"and more")


@_odd
def _leaves_a_process(x: torch.Tensor) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])


@_odd
def _patches_torch(x: torch.Tensor) -> torch.Tensor:
    torch.Tensor.__sub__ = torch.Tensor.__mul__  # type: ignore[method-assign]
    torch.equal = lambda *operands: True  # type: ignore[assignment]
    return torch.zeros_like(x)


@_odd
def _patches_the_generator(x: torch.Tensor) -> None:
    from refmoe.generator import Stream

    def shifted(self: Stream, *arguments: Any, **keywords: Any) -> torch.Tensor:
        return normal(Stream(self.seed + 1, self.name), *arguments, **keywords)

    normal, Stream.normal = Stream.normal, shifted  # type: ignore[method-assign]


class declaring:
    """Says other things than it does, where asked with the wrong number of experts."""

    device = "cpu"
    moe = staticmethod(_computed)

    @staticmethod
    def supports(case: Any) -> bool | str:
        if case.E == 5:
            os.abort()
        return case.E != 6 or "six experts"

    @staticmethod
    def declares(layer: Any) -> Any:
        if layer.experts == 7:
            os.abort()
        if layer.experts == 8:
            raise LookupError("no declaration")
        return replace(layer, hidden=2 * layer.hidden) if layer.experts == 9 else layer


class tactical:
    """Has three tactics, of which the middle one dies."""

    device = "cpu"

    @staticmethod
    def tactics(case: Any) -> tuple[str, ...]:
        return ("first", "second", "third")

    @staticmethod
    def moe(x: Any, logits: Any, params: Any, layer: Any, *, tactic: str) -> Any:
        if tactic == "second":
            os.abort()
        return _computed(x, logits, params, layer)
