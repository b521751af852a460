"""Grouped GEMMs on tensor cores, in the emulator: results, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle import bounds
from oracle.blocks import dequantize, quantize
from oracle.experts import grouped_gemm as reference
from oracle.numerics import Numerics
from oracle.params import Blocks
from oracle.spec import Activation
from refmoe.kernels import emulator
from refmoe.kernels.launchers.gemm import Gemm, naive
from refmoe.kernels.launchers.operands import Matrix, Packed
from refmoe.kernels.launchers.tactics import TACTICS, Instruction
from refmoe.kernels.launchers.tensor_cores import instruction, tensor_cores

NUMERICS = Numerics()
OFFSETS = torch.tensor([0, 70, 70, 83, 90, 90])
ROWS, COLUMNS = 93, 24


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).bfloat16()


def gemm(
    x_format: str | None, w_format: str | None, depth: int = 96, **more: object
) -> Gemm:
    x: Matrix = values(ROWS, depth)
    w: Matrix = values(5, COLUMNS, depth, seed=1)
    if x_format is not None:
        x = quantize(values(ROWS, depth), x_format)
    if w_format is not None:
        w = quantize(values(5, COLUMNS, depth, seed=1), w_format)
    return Gemm(x, w, OFFSETS, torch.float32, **more)  # type: ignore[arg-type]


def judged(problem: Gemm, got: torch.Tensor) -> None:
    x = problem.x
    exact = dequantize(x) if isinstance(x, Blocks) else x.double()  # type: ignore[union-attr]
    tap = reference(bounds.exactly(exact), problem.w, OFFSETS, NUMERICS)  # type: ignore[arg-type]
    tap = bounds.rounded(tap, "fp32", NUMERICS)
    assert tap.worst is not None
    assert bool(((got.double() - tap.value).abs() <= tap.worst).all())


@pytest.mark.parametrize("depth", [64, 72, 200])
def test_tensor_cores_stay_within_bounds_under_every_tactic(
    depth: int, emulated: None
) -> None:
    problem = gemm(None, None, depth)
    first = tensor_cores(problem, TACTICS["medium"])
    judged(problem, first)
    for tactic in TACTICS.values():
        assert torch.equal(tensor_cores(problem, tactic), first)


@pytest.mark.parametrize(
    ("x_format", "w_format", "depth"),
    [
        ("mxfp8_e4m3", "mxfp8_e4m3", 160), ("fp8_group_128", "fp8_block_128", 160),
        ("nvfp4", "nvfp4", 96), ("int8_token", "int8_channel", 96),
        ("fp8_token", "fp8_channel", 96), ("fp8_tensor", "fp8_channel", 112),
    ],
)  # fmt: skip
def test_tensor_cores_multiply_codes_within_bounds(
    x_format: str, w_format: str, depth: int, any_order: None
) -> None:
    problem = gemm(x_format, w_format, depth)
    assert isinstance(instruction(problem), Instruction)
    judged(problem, tensor_cores(problem, TACTICS["medium"]))


def test_tensor_cores_sum_integers_exactly(emulated: None) -> None:
    problem = gemm("int8_token", "int8_channel", 96)
    how = instruction(problem)
    assert isinstance(how, Instruction)
    assert (how.unit, how.depth) == ("element::int8", 32)
    x, w = problem.x, problem.w
    assert isinstance(x, Blocks)
    assert isinstance(w, Blocks)
    one = Gemm(
        Blocks(x.codes, torch.ones_like(x.scales), x.format),
        Blocks(w.codes, torch.ones_like(w.scales), w.format), OFFSETS, torch.float32,
    )  # fmt: skip
    assert torch.equal(tensor_cores(one, TACTICS["medium"]), naive(one))


def test_tensor_cores_do_lost_sums_again(emulated: None) -> None:
    """Catches codes summed in fp32 that leave its range before their scale comes."""
    x, w = values(ROWS, 64), values(5, COLUMNS, 64)
    x[3], x[5, 0] = 3e38, torch.nan
    w[0, 2] = 6 * 2.0**-20
    problem = Gemm(x, quantize(w, "mxfp4"), OFFSETS, torch.float32)
    got = tensor_cores(problem, TACTICS["medium"])
    want = naive(problem)
    assert want[3, 2].isfinite()
    assert got[3, 2] == want[3, 2]
    assert bool(got[5].isnan().all())


def test_tensor_cores_join_gate_and_up(emulated: None, within_bounds: Any) -> None:
    bias, weights = values(5, COLUMNS), torch.rand(ROWS)
    problem = gemm(
        None, None, 64, activation=Activation(limit=1.0), bias=bias, weights=weights
    )
    got, want = tensor_cores(problem, TACTICS["medium"]), naive(problem)
    assert got.shape == (ROWS, COLUMNS // 2)
    assert within_bounds(problem, got)
    assert within_bounds(problem, want)
    assert bool((got[90:] == 0).all())


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (Gemm(torch.zeros(3, 64), torch.zeros(1, 4, 64), OFFSETS, torch.float32),
         "x is fp32"),
        (gemm(None, None, 36), "rows of x do not start at multiples of 16"),
        (Gemm(values(3, 65)[:, 1:], values(1, 4, 64), OFFSETS, torch.float32),
         "rows of x do not start"),
        (Gemm(values(3, 64), values(1, 4, 64).half(), OFFSETS, torch.float32),
         "weights are fp16, but x is bf16"),
    ],
)  # fmt: skip
def test_tensor_cores_say_what_they_leave(problem: Gemm, reason: str) -> None:
    answer = instruction(problem)
    assert isinstance(answer, str)
    assert reason in answer


def test_tensor_cores_leave_odd_sizes_to_the_naive_kernel(emulated: None) -> None:
    problem = gemm(None, None, 36)
    assert torch.equal(tensor_cores(problem), naive(problem))


@pytest.mark.parametrize("tokens", [0, 1])
def test_tensor_cores_take_few_rows(tokens: int, emulated: None) -> None:
    x, offsets = values(tokens, 64), torch.tensor([0, 0, tokens])
    problem = Gemm(x, values(2, COLUMNS, 64), offsets, torch.bfloat16)
    got = tensor_cores(problem, TACTICS["medium"])
    assert torch.equal(got, naive(problem))


def test_tensor_cores_read_no_earlier_than_they_wait(host_compiler: str) -> None:
    """Catches a stage that is read before its copies are waited for."""
    problem = gemm(None, None, 200)
    found = []
    for seed in (0, 3, 11):
        with emulator.emulated(seed):
            found.append(tensor_cores(problem, TACTICS["medium"]))
    assert all(torch.equal(found[0], other) for other in found[1:])


def one_hot(columns: int) -> torch.Tensor:
    """Rows that pick one k each: a result is a value of the weights."""
    return torch.eye(columns).bfloat16()


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal bit for bit, but for which NaN."""
    nan = got.isnan()
    bits = [value.where(~nan, 0.0).view(torch.int32) for value in (got, want)]
    return torch.equal(nan, want.isnan()) and torch.equal(*bits)


@pytest.mark.parametrize(
    "name", ["mxfp4", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxint8"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensor_cores_read_every_code(
    name: str, dtype: torch.dtype, emulated: None
) -> None:
    """Each code alone, and those that are not numbers over all of their row."""
    made = quantize(torch.ones(1, 8, 32), name)
    codes = torch.arange(256).view(1, 8, 32).to(made.codes.dtype)
    if name == "mxfp4":
        codes %= 16
    if name == "mxfp6_e3m2":
        codes %= 64
    w = Blocks(codes, torch.full_like(made.scales, 127), made.format)
    offsets = torch.tensor([0, 32])
    problem = Gemm(one_hot(32).to(dtype), w, offsets, torch.float32)
    assert isinstance(instruction(problem), Instruction)
    assert same(tensor_cores(problem, TACTICS["small"]), naive(problem))


def test_tensor_cores_take_packed_codes_with_every_scale(emulated: None) -> None:
    """Catches a power that is lost, subnormal or not a number."""
    scales = torch.arange(256, dtype=torch.uint8).view(1, 256, 1)
    pairs = torch.arange(16, dtype=torch.uint8).view(1, 1, 16) * 0x11
    made = quantize(torch.ones(1, 256, 32), "mxfp4")
    w = Packed(pairs.repeat(1, 256, 1), scales, made.format)
    problem = Gemm(one_hot(32)[:16], w, torch.tensor([0, 16]), torch.float32)
    assert isinstance(instruction(problem), Instruction)
    got = tensor_cores(problem, TACTICS["small"])
    assert same(got, naive(problem))
    assert bool(got[:, 255].isnan().all())
    assert float(got[2, 0]) == 2.0**-128
