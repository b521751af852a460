"""The launch layer: what it refuses, and what it never launches."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from refmoe.kernels import launch
from refmoe.kernels.launch import Kernel

FLOATS = (torch.float32, torch.bfloat16)


class Recorder:
    """A backend that keeps what it is asked to run."""

    kind = "cpu"

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def target(self, device: torch.device) -> str:
        return "sm_80"

    def run(self, *call: object) -> None:
        self.calls.append(call)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def test_launch_hands_arguments_on(recorder: Recorder) -> None:
    tensor = torch.zeros(4)
    kernel = Kernel("x.cu", "k")
    with launch.through(recorder):
        kernel((2, 3), 64, tensor, None, 5, device=tensor.device)
    ((_, grid, block, arguments, shared, device),) = recorder.calls
    assert (grid, block, shared, device) == ((2, 3, 1), (64, 1, 1), 0, tensor.device)
    assert arguments == (tensor, None, 5)


def test_launch_of_nothing_never_happens(recorder: Recorder) -> None:
    with launch.through(recorder):
        Kernel("x.cu", "k")(0, 64, device=torch.device("cpu"))
        Kernel("x.cu", "k")((4, 0), 64, device=torch.device("cpu"))
    assert recorder.calls == []


def test_launch_refuses_grids_past_the_limit(recorder: Recorder) -> None:
    with launch.through(recorder), pytest.raises(ValueError, match="split the input"):
        Kernel("x.cu", "k")((1, 65536), 64, device=torch.device("cpu"))
    with launch.through(recorder), pytest.raises(ValueError, match="exceeds"):
        Kernel("x.cu", "k")(2**31, 64, device=torch.device("cpu"))
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0], TypeError, "op: x is a list; give a torch.Tensor"),
        (torch.zeros(2, 3).double(), TypeError, "x is float64; convert it to float32"),
        (torch.zeros(3, 3), ValueError, r"x has shape \(3, 3\); it must be \[2, any\]"),
        (torch.zeros(2), ValueError, r"x has shape \(2,\); it must be \[2, any\]"),
        (torch.zeros(3, 2).t(), ValueError, r"x has strides .* pass x.contiguous\(\)"),
        (torch.zeros(2, 6)[:, ::2], ValueError, "x has strides"),
        (torch.zeros(2, 3, device="meta"), ValueError, "x is on meta, the other"),
    ],
)
def test_check_names_what_does_not_fit(
    value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        launch.check("op", "x", value, FLOATS, (2, None), torch.device("cpu"))  # type: ignore[arg-type]


def test_check_wants_a_cuda_device_by_default() -> None:
    with pytest.raises(ValueError, match="x is on cpu; move it to a cuda device"):
        launch.check("op", "x", torch.zeros(2), FLOATS, (2,))


def test_check_returns_what_fits() -> None:
    tensor = torch.zeros(2, 3)
    found = launch.check("op", "x", tensor, FLOATS, (2, None), torch.device("cpu"))
    assert found is tensor


def test_aligned_looks_at_every_address() -> None:
    tensor = torch.zeros(64)
    assert launch.aligned(16, tensor, tensor[4:])
    assert not launch.aligned(16, tensor, tensor[1:])


def test_import_stays_light() -> None:
    code = (
        "import sys, refmoe.kernels.launch; "
        "print(sorted({'cupy', 'cuda.bindings.nvrtc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
