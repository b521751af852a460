"""From a .cu file and an expression to a function on a GPU, through the disk cache."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from refmoe.kernels import cache, catalogue, compiler

#: Bytes of dynamic shared memory that a kernel may take without being allowed to.
_FREELY_SHARED = 48 * 1024


@dataclass(slots=True)
class Loaded:
    """A kernel on a device: CuPy's object, which keeps the code there, and its handle.

    `launch` is the driver's cuLaunchKernel as CuPy exposes it, `shared` the bytes of
    dynamic shared memory that are allowed for.
    """

    kernel: Any
    handle: int
    launch: Callable[..., None]
    shared: int = _FREELY_SHARED


#: Compiles, for a target, what the op at hand will launch: asked when its first kernel
#: is not on disk.
ahead = ContextVar[Callable[[str], None] | None]("ahead", default=None)
_lock = threading.RLock()
_functions: dict[tuple[str, str, int, str], Loaded] = {}


def target_for(device: int) -> str:
    """The compile target for a CUDA device: its own, or $REFMOE_TARGET.

    REFMOE_TARGET=compute_80 runs the code paths of older GPUs on a newer one.
    """
    return os.environ.get("REFMOE_TARGET") or _own_target(device)


@lru_cache
def _own_target(device: int) -> str:
    return compiler.target_of(*torch.cuda.get_device_capability(device))


def function(file: str, expression: str, device: int, shared: int = 0) -> Loaded:
    """The kernel for `expression` of `file`, loaded on `device`.

    `shared` bytes of dynamic shared memory are allowed for when they pass 48 KiB.
    Compiles on the first call in the world, reads the disk cache on the first call in
    a process; a later call is one dictionary look-up.
    """
    target = target_for(device)
    key = (file, expression, device, target)
    loaded = _functions.get(key)
    if loaded is None:
        with _lock, torch.cuda.device(device):
            loaded = _functions.get(key) or _load(file, expression, target)
            _functions[key] = loaded
    if shared > loaded.shared:
        with _lock, torch.cuda.device(device):
            loaded.kernel.max_dynamic_shared_size_bytes = max(shared, loaded.shared)
            loaded.shared = max(shared, loaded.shared)
    return loaded


def warm_up(device: int = 0) -> None:
    """Compile and load every instance of the catalogue: no later launch has to.

    Before a CUDA graph is captured, say; calling each op once on like inputs also does.
    """
    catalogue.warm_up(target_for(device))
    for file, expressions in catalogue.launched().items():
        for expression in expressions:
            function(file, expression, device)


def find(file: str, expression: str, target: str) -> tuple[Path, compiler.Image] | None:
    """The program with `expression`, of the whole file or its own, if it is on disk."""
    listed = catalogue.instances().get(file, ())
    found = cache.find(file, listed, target) if expression in listed else None
    return found or cache.find(file, (expression,), target)


def _image(file: str, expression: str, target: str) -> tuple[Path, compiler.Image]:
    """The program with `expression`, built if it is not on disk."""
    found = find(file, expression, target)
    if found is not None:
        return found
    compile_ahead = ahead.get()
    if compile_ahead is not None:
        ahead.set(None)  # Once a call.
        compile_ahead(target)
    return cache.fetch(file, (expression,), target)


def _load(file: str, expression: str, target: str) -> Loaded:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "CuPy is missing, which runs the kernels; install `refmoe[cuda13]` "
            "(or [cuda12])"
        ) from error
    path, image = _image(file, expression, target)
    try:
        # Loads the module at once: a later launch, in a capture say, never does.
        kernel = cupy.RawModule(path=str(path)).get_function(image.names[expression])
        return Loaded(kernel, kernel.kernel.ptr, cupy.cuda.driver.launchKernel)
    except cupy.cuda.driver.CUDADriverError as error:
        driver = cupy.cuda.runtime.driverGetVersion()
        major, minor = compiler.version()
        raise RuntimeError(
            f"the driver (CUDA {driver // 1000}.{driver % 1000 // 10}) does not load "
            f"{expression} of {file}, compiled for {target} by NVRTC {major}.{minor}: "
            f"{error}. Update the driver, or install an NVRTC of the driver's release"
        ) from error
