"""The CUDA kernels on a CPU: the same text, compiled by a host compiler.

Slow, deterministic and strict: argument sizes are checked against the kernel's
parameters, a barrier or a warp collective that not every named thread reaches is an
error, and the order in which threads run can be permuted to show races. Kernels that
hold inline PTX do not run here.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache as cache_in_process
from pathlib import Path
from typing import Any

import torch

from refmoe.kernels import cache, catalogue, launch
from refmoe.kernels.arguments import Argument, bytes_of
from refmoe.kernels.launchers.tactics import EMULATED
from refmoe.kernels.source import expand

_ROOM = Path(__file__).parent
#: Contraction off, as for the GPU; unoptimised would be slower to run than to compile.
_OPTIONS = (
    "-std=c++17", "-Og", "-shared", "-fPIC", "-ffp-contract=off",
    "-fno-strict-aliasing", "-fwrapv", "-w",
)  # fmt: skip

#: Matrix units: products that a step adds, fraction bits that it aligns them to, and
#: the exponent below which it does not align.
UNITS = {"ampere": (8, 24, -132), "hopper": (16, 25, -133)}


@cache_in_process
def compiler() -> str:
    """The host C++ compiler: $CXX, else g++ or clang++; RuntimeError without one."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise RuntimeError(
        "emulating kernels needs a C++ compiler: install g++ or set $CXX"
    )


def build(file: str, expressions: Sequence[str]) -> ctypes.CDLL:
    """The shared library with one entry per expression, from disk or just built."""
    entries = [
        f'extern "C" const char* entry_{number}(const unsigned* grid, const unsigned* '
        "block, unsigned shared, void** values, const unsigned* sizes, unsigned count, "
        "unsigned seed, const int* unit) { simt::matrix_unit = {unsigned(unit[0]), "
        f"unit[1], unit[2]}}; return simt::launch<&{expression}>(&{expression}, grid, "
        "block, shared, values, sizes, count, seed); }"
        for number, expression in enumerate(expressions)
    ]
    text = "\n".join((expand("cuda.hpp", _ROOM), expand(file), *entries, ""))
    key = hashlib.sha256("\0".join((text, compiler(), *_OPTIONS)).encode()).hexdigest()
    library = cache.folder() / f"{key}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            source, built = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(text)
            command = [compiler(), *_OPTIONS, str(source), "-o", str(built)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{file} for the CPU:\n{done.stderr}")
            os.replace(built, library)
    return ctypes.CDLL(str(library))


@cache_in_process
def _entry(file: str, expression: str) -> Any:
    listed = tuple(catalogue.instances().get(file, ()))
    expressions = listed if expression in listed else (expression,)
    entry = getattr(build(file, expressions), f"entry_{expressions.index(expression)}")
    entry.restype = ctypes.c_char_p
    return entry


class Emulator:
    """The backend that runs kernels on the CPU.

    `seed` permutes the threads; `unit` is the GPU whose matrix unit adds up.
    """

    kind = "cpu"

    def __init__(self, seed: int = 0, unit: str = "hopper") -> None:
        self.seed, self.unit = seed, UNITS[unit]

    def target(self, device: torch.device) -> str:
        """A name of its own."""
        return EMULATED

    def run(
        self, kernel: launch.Kernel, grid: launch.Size, block: launch.Size,
        arguments: Sequence[Argument], shared: int, device: torch.device,
    ) -> None:  # fmt: skip
        """Run one launch to its end; RuntimeError with the first violation."""
        contents = [bytes_of(argument) for argument in arguments]
        buffers = [ctypes.create_string_buffer(content) for content in contents]
        count = len(buffers)
        values = (ctypes.c_void_p * count)(*(ctypes.addressof(b) for b in buffers))
        sizes = (ctypes.c_uint * count)(*map(len, contents))
        entry = _entry(kernel.file, kernel.expression)
        failure = entry(
            (ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block),
            ctypes.c_uint(shared), values, sizes, ctypes.c_uint(count),
            ctypes.c_uint(self.seed), (ctypes.c_int * 3)(*self.unit),
        )  # fmt: skip
        if failure:
            what = f"{kernel.expression} of {kernel.file}"
            raise RuntimeError(f"{what}: {failure.decode()}")


@contextmanager
def emulated(seed: int = 0, unit: str = "hopper") -> Iterator[None]:
    """Within it, the kernels take CPU tensors and run on the CPU."""
    with launch.through(Emulator(seed, unit)):
        yield
