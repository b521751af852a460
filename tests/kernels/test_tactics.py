"""Tactics of the grouped GEMM: which fit where, compiled; which is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oracle.blocks import quantize
from refmoe.kernels import compiler, tuning
from refmoe.kernels.compiler import ARCHITECTURES, PORTABLE
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.tactics import (
    EMULATED,
    FILE,
    TACTICS,
    Instruction,
    Tactic,
    shared_limit,
    tactics,
)
from refmoe.kernels.launchers.tensor_cores import (
    choice,
    instruction,
    tensor_cores,
    tune,
)

BF16 = Instruction("bf16", "Values<bf16>", "Values<bf16>", False, 0)
MXFP4 = Instruction("bf16", "Values<bf16>", "Nibbles", True, 32)
FP8 = Instruction(
    "bf16", "Bytes<element::e4m3>", "Bytes<element::e4m3>", True, 128
)  # fmt: skip
INT8 = Instruction(
    "element::int8", "Bytes<element::int8>", "Bytes<element::int8>", True, 0
)  # fmt: skip


def problem(rows: int, experts: int = 4, w_format: str | None = None) -> Gemm:
    x, w = torch.ones(rows, 64).bfloat16(), torch.ones(experts, 16, 64).bfloat16()
    offsets = torch.linspace(0, rows, experts + 1).int()
    if w_format is None:
        return Gemm(x, w, offsets, torch.float32)
    return Gemm(x, quantize(w, w_format), offsets, torch.float32)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFMOE_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("REFMOE_TACTICS", raising=False)


def compiles(name: str, how: Instruction, curve: str, target: str) -> None:
    tactic = TACTICS[name].taken(how)
    if tactic.shared(how) > shared_limit(target):
        return
    kernel = tactic.kernel(how, curve)
    usage = compiler.compile_file(FILE, (kernel,), target).usage[kernel]
    assert (usage.spill_stores, usage.stack) == (0, 0)
    assert usage.registers * tactic.threads <= 65536


@pytest.mark.parametrize(("number", "name"), list(enumerate(TACTICS)))
def test_tactics_compile_without_spills(number: int, name: str, nvrtc: object) -> None:
    offering = [target for target in ARCHITECTURES if name in tactics(target)]
    compiles(name, BF16, "kSwiglu", offering[number % len(offering)])


@pytest.mark.long
@pytest.mark.parametrize("target", ARCHITECTURES)
@pytest.mark.parametrize("how", [BF16, MXFP4, FP8, INT8], ids=lambda how: how.w)
@pytest.mark.parametrize("name", TACTICS)
def test_tactics_compile_for_every_format_without_spills(
    name: str, how: Instruction, target: str, nvrtc: object
) -> None:
    for curve in ("kPlain", "kSwiglu"):
        compiles(name, how, curve, target)


@pytest.mark.parametrize("target", [*ARCHITECTURES, *PORTABLE])
def test_tactics_fit_every_target(target: str) -> None:
    offered = tactics(target)
    assert {"small", "medium"} <= set(offered)
    assert all(t.shared(BF16) <= shared_limit(target) for t in offered.values())


def test_tactics_narrow_where_scales_take_a_second_set_of_sums() -> None:
    for tactic in TACTICS.values():
        assert tactic.taken(BF16) == tactic
        narrow = tactic.taken(MXFP4)
        assert narrow.height == tactic.height
        assert narrow.m_tiles * narrow.n_tiles <= 16


def test_tactics_that_do_not_fit_are_refused(emulated: None) -> None:
    with pytest.raises(
        ValueError,
        match="a tile of 256 x 256 with 4 stages takes 270336 bytes of shared memory, "
        "emulated has 232448; take another tactic",
    ):
        tensor_cores(problem(8), Tactic(4, 4, 4, 8, 4))


@pytest.mark.parametrize("target", [*ARCHITECTURES, *PORTABLE, EMULATED])
@pytest.mark.parametrize("w_format", [None, "mxfp4"])
@pytest.mark.parametrize("rows", [0, 1, 64, 100, 400, 4000])
def test_tactics_have_a_default_for_any_number_of_rows(
    rows: int, w_format: str | None, target: str, kept: None
) -> None:
    gemm = problem(rows, w_format=w_format)
    how = instruction(gemm)
    assert isinstance(how, Instruction)
    tactic = choice(gemm, how, target)
    assert tactic in tactics(target).values()
    assert tactic.height <= max(16, 4 * rows / 4)


def test_tactics_are_measured_kept_and_taken(
    kept: None, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemm = problem(100)
    how = instruction(gemm)
    assert isinstance(how, Instruction)
    best = TACTICS["small"]
    monkeypatch.setattr(
        tuning, "_time", lambda run, candidate, device: float(candidate != best)
    )
    assert choice(gemm, how, EMULATED) != best
    assert tune(gemm) == best
    assert choice(gemm, how, EMULATED) == best
    assert choice(problem(120), how, EMULATED) == best
    assert choice(problem(200), how, EMULATED) != best
    assert choice(gemm, how, "sm_90a") != best


def test_tactics_are_not_measured_where_there_is_none(
    kept: None, emulated: None
) -> None:
    x, w = torch.ones(4, 64), torch.ones(2, 8, 64)
    offsets = torch.tensor([0, 2, 4])
    with pytest.raises(ValueError, match=r"tune: x is fp32.*; there is no tactic"):
        tune(Gemm(x, w, offsets, torch.float32))


def test_tactics_take_the_tile_that_holds_the_rows_of_a_single_expert(
    kept: None,
) -> None:
    """Catches room for an uneven load where there is no other expert."""
    for w_format, how in ((None, BF16), ("mxfp4", MXFP4)):
        gemm = problem(16, experts=1, w_format=w_format)
        assert choice(gemm, how, "sm_90a") == TACTICS["small"]
    assert choice(problem(64), BF16, "sm_90a") == TACTICS["medium"]
