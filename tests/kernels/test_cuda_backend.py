"""The path to the driver, with stand-ins for what needs a GPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from refmoe.kernels import cache, catalogue, compiler, driver, loader
from refmoe.kernels.driver import Cuda
from refmoe.kernels.launch import Kernel

pytestmark = pytest.mark.usefixtures("nvrtc")

DEVICE = torch.device("cuda", 0)
WHOLE = catalogue.instances()["combine.cu"]


class Launches(list[tuple[Any, ...]]):
    """What would have gone to the driver; `failures` come first."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[Exception] = []
        self.stream, self.device = 7, 0

    def launch(self, *call: Any) -> None:
        if self.failures:
            raise self.failures.pop()
        *numbers, pointers, extra = call
        first = ctypes.c_void_p.from_address(pointers).value
        self.append((*numbers, ctypes.c_int64.from_address(first or 0).value, extra))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Launches of a kernel with one 64-bit argument; handle 99, stream 7, device 0."""
    calls = Launches()

    def function(file: str, expression: str, device: int, shared: int) -> Any:
        return loader.Loaded(None, 99, calls.launch)

    monkeypatch.setattr(loader, "function", function)
    monkeypatch.setattr(
        torch._C, "_cuda_getCurrentRawStream", lambda index: calls.stream, raising=False
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    @contextmanager
    def on(device: int) -> Iterator[None]:
        calls.device, before = device, calls.device
        calls.append(("on", device))
        yield
        calls.device = before

    monkeypatch.setattr(torch.cuda, "device", on)
    return calls


def run(argument: int, device: torch.device = DEVICE) -> None:
    Cuda().run(Kernel("x.cu", "k"), (3, 2, 1), (64, 1, 1), [argument], 128, device)


def test_cuda_launches_on_the_current_stream(launched: Launches) -> None:
    """Catches arguments in another order, and a stream that was kept."""
    run(5)
    launched.stream = 8
    run(6)
    assert launched == [
        (99, 3, 2, 1, 64, 1, 1, 128, 7, 5, 0),
        (99, 3, 2, 1, 64, 1, 1, 128, 8, 6, 0),
    ]


def test_cuda_changes_the_device_only_where_it_must(launched: Launches) -> None:
    run(5, torch.device("cuda", 1))
    assert launched[0] == ("on", 1)
    assert len(launched) == 2


def test_cuda_binds_a_thread_that_has_no_context(
    launched: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the first launch in a fresh thread failing, and an error swallowed."""

    class DriverError(RuntimeError):
        def __init__(self, status: int) -> None:
            super().__init__(f"status {status}")
            self.status = status

    bound: list[int] = []
    runtime = SimpleNamespace(setDevice=bound.append)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    launched.failures = [DriverError(201)]
    run(5)
    assert bound == [0]
    assert len(launched) == 1
    launched.failures = [DriverError(719)]
    with pytest.raises(DriverError, match="719"):
        run(5)
    assert bound == [0]


def test_stream_is_wrapped_once(
    launched: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a wrapper a call: CuPy destroys a stream when one is dropped."""
    monkeypatch.setattr(driver, "_streams", {})
    monkeypatch.setattr(driver, "_wrap", lambda handle: [handle])
    first = driver.current_stream(0)
    assert first == [7]
    assert driver.current_stream(0) is first


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
            return SimpleNamespace(
                name=name,
                max_dynamic_shared_size_bytes=0,
                kernel=SimpleNamespace(ptr=9),
            )

    @contextmanager
    def on(device: int) -> Iterator[None]:
        yield

    found.fails = False
    cupy = SimpleNamespace(
        RawModule=RawModule,
        cuda=SimpleNamespace(
            driver=SimpleNamespace(CUDADriverError=DriverError, launchKernel=None),
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
        first.kernel.name
        == cache.fetch("combine.cu", (WHOLE[0],), "sm_80")[1].names[WHOLE[0]]
    )
    assert path == cache.fetch("combine.cu", (WHOLE[0],), "sm_80")[0]


def test_loader_takes_the_whole_file_once_it_is_there(module: SimpleNamespace) -> None:
    path, _ = cache.fetch("combine.cu", WHOLE, "sm_80")
    loader.function("combine.cu", WHOLE[1], 0)
    assert module.path == path


def test_loader_allows_large_shared_memory(module: SimpleNamespace) -> None:
    loaded = loader.function("combine.cu", WHOLE[0], 0, 48 * 1024)
    assert loaded.kernel.max_dynamic_shared_size_bytes == 0
    for wanted, allowed in ((64, 64), (50, 64), (96, 96)):
        assert loader.function("combine.cu", WHOLE[0], 0, wanted * 1024) is loaded
        assert loaded.kernel.max_dynamic_shared_size_bytes == allowed * 1024


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
