"""A GPU whose disk cache starts empty, for tests of what compiles when."""

from __future__ import annotations

import threading
from typing import Any

import torch

from refmoe.kernels import loader
from refmoe.kernels.compiler import CompileError
from refmoe.kernels.launch import Kernel

TARGET = "sm_90a"


class Cold:
    """Kernels are loaded, and compute nothing."""

    kind = "cpu"

    def __init__(self) -> None:
        self.disk: set[Kernel] = set()
        self.launched: set[Kernel] = set()
        #: What the calling thread compiled itself, and what cannot be compiled.
        self.met: list[Kernel] = []
        self.broken: set[Kernel] = set()

    def target(self, device: torch.device) -> str:
        return TARGET

    def run(
        self, kernel: Kernel, grid: object, block: object, arguments: Any, *rest: object
    ) -> None:
        self.launched.add(kernel)
        loader._image(kernel.file, kernel.expression, TARGET)
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.dtype == torch.int32:
                argument.zero_()  # Rows and ids that PyTorch may use.

    def find(self, file: str, expressions: tuple[str, ...], target: str) -> Any:
        assert target == TARGET
        kernels = {Kernel(file, expression) for expression in expressions}
        return ("path", "image") if kernels <= self.disk else None

    def fetch(self, file: str, expressions: tuple[str, ...], target: str) -> Any:
        found = self.find(file, expressions, target)
        (kernel,) = (Kernel(file, expression) for expression in expressions)
        if found is None and kernel in self.broken:
            raise CompileError(f"{kernel.expression} does not compile")
        if found is None:
            self.disk.add(kernel)
            if threading.current_thread() is threading.main_thread():
                self.met.append(kernel)
        return found

    def forget(self) -> None:
        """Begin anew: nothing is on disk, nothing was launched."""
        self.disk.clear()
        self.launched.clear()
        self.met.clear()
