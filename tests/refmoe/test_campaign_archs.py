"""A campaign over architectures: what runs, what stands in, what never ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refmoe.campaign.state import path_of, read
from refmoe.gallery.plain import Plain
from refmoe.kernels import emulated, launch
from refmoe.kernels.emulator import UNITS
from refmoe.kernels.paths import on_arch
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.verdict import Kind
from refmoe.verify import Verifier
from tests.refmoe.streams import ROOT, cases_of

PORT = """
from contextlib import contextmanager
from refmoe.gallery.plain import Plain

device, emulates, permute = "cpu", ("sm_80", "sm_89"), Plain().permute

@contextmanager
def on_arch(arch):
    with open("entered.txt", "a") as file:
        file.write(arch + "\\n")
    yield
"""


def test_fuzz_runs_what_is_emulated_and_names_the_rest(tmp_path: Path) -> None:
    """Catches cases that are labelled with an architecture whose code never ran."""
    (tmp_path / "by_arch.py").write_text(PORT)
    command = [
        sys.executable, "-m", "refmoe", "fuzz", "by_arch", "--state", "state", "-n",
        "1", "--cases", "12", "--quiet", "--arch", "sm_80,sm_89,sm_90a",
    ]  # fmt: skip
    place = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "sm_89: emulated accumulators stand in for its matrix units" in done.stdout
    assert "sm_90a never ran: nothing here executes its code" in done.stdout
    lines = read(path_of(tmp_path / "state", 0))
    drawn = [parse(case).arch for case in cases_of(lines)]
    assert (tmp_path / "entered.txt").read_text().split() == drawn
    assert set(drawn) == {"sm_80", "sm_89"}


def test_emulated_kernels_add_up_as_the_architecture_does() -> None:
    seen = emulated._through_emulator(lambda: launch.current().unit)  # type: ignore[attr-defined]
    assert seen() == UNITS["hopper"]
    with emulated.on_arch("sm_89"):
        assert seen() == UNITS["ampere"]
        with emulated.on_arch("sm_90a"):
            assert seen() == UNITS["hopper"]
    assert seen() == UNITS["hopper"]
    with pytest.raises(ValueError, match="sm_100a is not emulated; there is sm_80"):
        emulated.on_arch("sm_100a").__enter__()


def test_kernels_compile_for_the_architecture_that_a_case_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REFMOE_TARGET", raising=False)
    for arch, target in (("sm_80", "compute_80"), ("sm_90a", "sm_90a")):
        with on_arch(arch):
            assert os.environ["REFMOE_TARGET"] == target
    assert "REFMOE_TARGET" not in os.environ
    monkeypatch.setenv("REFMOE_TARGET", "sm_86")
    with on_arch("sm_80"):
        pass
    assert os.environ["REFMOE_TARGET"] == "sm_86"


def test_an_architecture_that_a_port_does_not_have_is_refused() -> None:
    ops = {"permute": Plain().permute, "device": "cpu", "on_arch": emulated.on_arch}
    case = parse("permute T=3 E=4 k=2 regime=randn arch=sm_100a seed=0")
    record = Verifier().check(port_of(ops, "mine"), case)
    assert record.kind is Kind.REFUSED
    assert "sm_100a is not emulated" in record.log
