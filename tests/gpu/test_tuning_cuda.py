"""The tuner on a GPU: what it measures is kept, taken, and changes no bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refmoe.kernels import tuning
from refmoe.kernels.launchers import omni
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.tactics import Instruction, tactics
from refmoe.kernels.launchers.tensor_cores import (
    choice,
    instruction,
    tensor_cores,
    tune,
)
from refmoe.kernels.loader import target_for

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of choices, empty; compiled kernels stay where they are."""
    file = tmp_path / "tactics.json"
    monkeypatch.delenv("REFMOE_TACTICS", raising=False)
    monkeypatch.setattr(tuning, "path", lambda: file)
    return file


def test_tuner_keeps_a_tile_of_the_grouped_gemm(kept: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 1024, device=DEVICE, dtype=torch.bfloat16)
    w = torch.randn(8, 512, 1024, device=DEVICE, dtype=torch.bfloat16)
    gemm = Gemm(x, w, torch.arange(0, 513, 64, device=DEVICE), torch.float32)
    how, target = instruction(gemm), target_for(0)
    assert isinstance(how, Instruction)
    best = tune(gemm)
    assert kept.exists()
    assert best == choice(gemm, how, target)
    outs = [tensor_cores(gemm, tactic) for tactic in tactics(target).values()]
    assert all(torch.equal(outs[0], out) for out in (*outs, tensor_cores(gemm)))


def test_tuner_keeps_how_product_keys_are_split(kept: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 64, 128, device=DEVICE)
    before = omni.omni_route(x, y, 16)
    best = omni.tune_omni_route(x, y, 16)
    assert best in omni.tactics(target_for(0))
    assert kept.exists()
    after = omni.omni_route(x, y, 16)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
