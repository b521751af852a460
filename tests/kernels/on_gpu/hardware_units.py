"""The instructions that are measured, and one way to run any of them."""

from __future__ import annotations

import atexit
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from refmoe.kernels import compiler

from .hardware_model import Model, dot

TEXT = Path(__file__).with_name("hardware_units.cu")
TARGET = "sm_90a"


@dataclass(frozen=True, slots=True)
class Unit:
    """An instruction: its name in the kernels, and the types that it takes."""

    name: str
    operand: str
    result: str = "fp32"

    @property
    def depth(self) -> int:
        """Products of one instruction: 32 bytes."""
        return 32 // self.width

    @property
    def width(self) -> int:
        """Bytes of an operand."""
        return {"bf16": 2, "fp16": 2, "tf32": 4}.get(self.operand, 1)

    @property
    def expression(self) -> str:
        """The kernel that runs it."""
        wide = "_wide" if self.name.startswith("wgmma") else ""
        return f"multiply{wide}<{self.name}>"


_TYPES = (
    ("bf16", "bf16", "fp32"),
    ("f16", "fp16", "fp32"),
    ("f16_f16", "fp16", "fp16"),
    ("tf32", "tf32", "fp32"),
    ("e4m3", "e4m3", "fp32"),
    ("e5m2", "e5m2", "fp32"),
    ("s8", "s8", "int32"),
)
UNITS = (
    *(Unit(f"mma_{name}", *types) for name, *types in _TYPES),
    *(Unit(f"wgmma_{name}", *types) for name, *types in _TYPES),
    Unit("wgmma_e4m3_f16", "e4m3", "fp16"),
)


class Machine(Protocol):
    """Runs dot products: x, y i64[P, K] codes and c i64[P] bits to i64[P] bits."""

    def run(
        self, unit: Unit, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
    ) -> torch.Tensor:
        """The bits of each dot product."""


@lru_cache(maxsize=4)
def compiled(path: Path, expressions: tuple[str, ...]) -> compiler.Image:
    """Kernels of a text beside this file, as refmoe compiles its own."""
    return compiler.compile_text(path.read_text(), expressions, TARGET, path.name)


def function(path: Path, expressions: tuple[str, ...], expression: str) -> Any:
    """One of them, loaded on the GPU."""
    return _module(path, expressions).get_function(
        compiled(path, expressions).names[expression]
    )


@lru_cache(maxsize=4)
def _module(path: Path, expressions: tuple[str, ...]) -> Any:
    import cupy

    # CuPy may read the file at the first launch only.
    with tempfile.NamedTemporaryFile(suffix=".cubin", delete=False) as file:
        file.write(compiled(path, expressions).code)
    atexit.register(os.unlink, file.name)
    return cupy.RawModule(path=file.name)


EXPRESSIONS = tuple(unit.expression for unit in UNITS)


class Gpu:
    """The units themselves."""

    def run(
        self, unit: Unit, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
    ) -> torch.Tensor:
        """Eight dot products a block, padded with zeros."""
        import cupy

        count, blocks = len(c), -(-len(c) // 8)
        kind = {1: torch.int8, 2: torch.int16, 4: torch.int32}[unit.width]
        words = []
        for codes, to in ((x, kind), (y, kind), (c[:, None], torch.int32)):
            padded = torch.zeros(8 * blocks, codes.shape[1], dtype=torch.int64)
            padded[:count] = codes
            words.append(_narrowed(padded, to).cuda())
        out = torch.zeros(8 * blocks, dtype=torch.int32, device="cuda")
        kernel = function(TEXT, EXPRESSIONS, unit.expression)
        threads = 128 if "wide" in unit.expression else 32
        arguments = [np.uint64(t.data_ptr()) for t in (*words, out)]
        steps = np.int32(x.shape[1] // unit.depth)
        torch.cuda.synchronize()
        kernel((blocks, 1, 1), (threads, 1, 1), (*arguments, steps))
        cupy.cuda.Device().synchronize()
        return out.cpu().to(torch.int64)[:count] & 0xFFFFFFFF


def _narrowed(codes: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """The low bytes of codes, as a tensor of a narrower type."""
    bits = 8 * kind.itemsize
    return (codes << 64 - bits >> 64 - bits).to(kind)


@dataclass(frozen=True, slots=True)
class Modelled:
    """A machine whose units follow models: for trying the probes without a GPU."""

    models: dict[str, Model]

    def run(
        self, unit: Unit, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
    ) -> torch.Tensor:
        """What the model of the unit says."""
        return dot(self.models[unit.name], x, y, c)
