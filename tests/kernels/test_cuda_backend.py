"""The path to the driver, with stand-ins for what needs a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from refmoe.kernels import cache, catalogue, compiler, launch, loader
from refmoe.kernels.launch import Cuda, Kernel

pytestmark = pytest.mark.usefixtures("nvrtc")

DEVICE = torch.device("cuda", 0)
WHOLE = catalogue.instances()["combine.cu"]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Launches that would have gone to the driver; the current stream is number 7."""
    calls: list[tuple[Any, ...]] = []

    def function(file: str, expression: str, device: int, shared: int) -> Any:
        return lambda *given, **keywords: calls.append((file, device, given, keywords))

    stream = SimpleNamespace(cuda_stream=7)
    monkeypatch.setattr(loader, "function", function)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(launch, "_wrap", lambda handle: f"stream {handle}")
    monkeypatch.setattr(launch, "_streams", {})
    return calls


def test_cuda_launches_on_the_current_stream(launched: list[tuple[Any, ...]]) -> None:
    backend = Cuda()
    kernel = Kernel("x.cu", "k")
    for _ in range(2):
        backend.run(kernel, (3, 1, 1), (64, 1, 1), [np.int32(5)], 128, DEVICE)
    assert launched == 2 * [
        ("x.cu", 0, ((3, 1, 1), (64, 1, 1), (np.int32(5),)),
         {"shared_mem": 128, "stream": "stream 7"})
    ]  # fmt: skip


def test_cuda_wraps_each_stream_once(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped: list[int] = []
    monkeypatch.setattr(launch, "_wrap", lambda handle: wrapped.append(handle) or "s")
    backend = Cuda()
    for _ in range(3):
        backend.run(Kernel("x.cu", "k"), (1, 1, 1), (32, 1, 1), [], 0, DEVICE)
    assert wrapped == [7]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for CuPy that remembers which file was loaded."""
    found = SimpleNamespace(path=None)

    class DriverError(RuntimeError):
        pass

    class RawModule:
        def __init__(self, path: str) -> None:
            found.path = Path(path)

        def get_function(self, name: str) -> Any:
            if found.fails:
                raise DriverError("CUDA_ERROR_NO_BINARY_FOR_GPU")
            return SimpleNamespace(name=name, max_dynamic_shared_size_bytes=0)

    @contextmanager
    def on(device: int) -> Iterator[None]:
        yield

    found.fails = False
    cupy = SimpleNamespace(
        RawModule=RawModule,
        cuda=SimpleNamespace(
            driver=SimpleNamespace(CUDADriverError=DriverError),
            runtime=SimpleNamespace(driverGetVersion=lambda: 12040),
        ),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setenv("REFMOE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("REFMOE_TARGET", "sm_80")
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(loader, "_functions", {})
    return found


def test_loader_compiles_one_instance_once(module: SimpleNamespace) -> None:
    first = loader.function("combine.cu", WHOLE[0], 0)
    path = module.path
    assert loader.function("combine.cu", WHOLE[0], 0) is first
    assert (
        first.name == cache.fetch("combine.cu", (WHOLE[0],), "sm_80")[1].names[WHOLE[0]]
    )
    assert path == cache.fetch("combine.cu", (WHOLE[0],), "sm_80")[0]


def test_loader_takes_the_whole_file_once_it_is_there(module: SimpleNamespace) -> None:
    path, _ = cache.fetch("combine.cu", WHOLE, "sm_80")
    loader.function("combine.cu", WHOLE[1], 0)
    assert module.path == path


def test_loader_allows_large_shared_memory(module: SimpleNamespace) -> None:
    assert loader.function("combine.cu", WHOLE[0], 0, 48 * 1024)
    loaded = loader.function("combine.cu", WHOLE[0], 0, 64 * 1024)
    assert loaded.max_dynamic_shared_size_bytes == 64 * 1024
    loader.function("combine.cu", WHOLE[0], 0, 50 * 1024)
    assert loaded.max_dynamic_shared_size_bytes == 64 * 1024


def test_loader_names_a_driver_that_does_not_fit(module: SimpleNamespace) -> None:
    module.fails = True
    major, minor = compiler.version()
    message = (
        rf"the driver \(CUDA 12\.4\) does not load .* compiled for sm_80 by NVRTC "
        rf"{major}\.{minor}: CUDA_ERROR_NO_BINARY_FOR_GPU\. Update the driver"
    )
    with pytest.raises(RuntimeError, match=message):
        loader.function("combine.cu", WHOLE[0], 0)


def test_loader_names_a_missing_cupy(
    module: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        RuntimeError, match=r"CuPy is missing.*install `refmoe\[cuda13\]`"
    ):
        loader.function("combine.cu", WHOLE[0], 0)


def test_loader_warms_up_everything(
    module: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {
        "combine.cu": WHOLE[:2],
        "grouped.cu": catalogue.instances()["grouped.cu"][:1],
    }
    monkeypatch.setattr(catalogue, "instances", lambda: few)
    loader.warm_up()
    monkeypatch.setattr(loader, "_load", None)
    for file, expressions in few.items():
        for expression in expressions:
            assert loader.function(file, expression, 0)
