"""The emulated matrix unit, to the bit: as the integer model and the oracle have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oracle.accumulators import accumulate
from oracle.formats import decode
from oracle.numerics import ACCUMULATORS
from oracle.vectors import load
from refmoe.kernels import emulator, source
from refmoe.kernels.launch import Kernel
from tests.kernels.on_gpu.hardware_model import Model, dot
from tests.kernels.on_gpu.hardware_operands import KINDS, random

TEXT = """
#include "types.cuh"
template <class T, int Least>
__global__ void dots(const u32* x, const u32* y, const float* c, float* out) {
  const u32 lane = threadIdx.x, group = lane / 4, t = lane % 4;
  const u32 row = 8 * blockIdx.x + group;
  u32 a[4] = {}, b[2];
  float sum[4] = {};
  for (u32 half = 0; half < 2; ++half) {
    a[2 * half] = x[8 * row + 4 * half + t];
    b[half] = y[8 * row + 4 * half + t];
  }
  for (u32 i = 0; i < 2; ++i)
    if (2 * t + i == group) sum[i] = c[row];
  simt::multiply_accumulate(sum, a, b, 2, Least, [](u32 word, u32 i) {
    return to_float(T{u16(word >> 16 * i)});
  });
  for (u32 i = 0; i < 2; ++i)
    if (2 * t + i == group) out[row] = sum[i];
}
"""
#: With the exponent of the least normal value.
KERNELS = {"bf16": "dots<bf16, -126>", "fp16": "dots<fp16, -14>"}
COUNT = 768
EVERY = tuple(range(16))


@pytest.fixture(autouse=True)
def room(host_compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dots.cu").write_text(TEXT)
    for path in source.ROOM.glob("*.cuh"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(
        emulator, "expand", lambda name, room=tmp_path: source.expand(name, room)
    )
    both = {"dots.cu": tuple(KERNELS.values())}
    monkeypatch.setattr(emulator.catalogue, "instances", lambda: both)


def emulated(
    unit: str, operand: str, x: torch.Tensor, y: torch.Tensor, c: torch.Tensor
) -> torch.Tensor:
    words = [t.to(torch.int16).contiguous() for t in (x, y)]
    starts = c.to(torch.int32)
    out = torch.zeros_like(starts)
    with emulator.emulated(unit=unit):
        Kernel("dots.cu", KERNELS[operand])(
            len(c) // 8, 32, *words, starts, out, device=torch.device("cpu")
        )
    return out.long() & 0xFFFFFFFF


def model(unit: str, operand: str) -> Model:
    terms, fraction, least = emulator.UNITS[unit]
    blocks = tuple(EVERY[k : k + terms] for k in range(0, 16, terms))
    return Model(operand, "fp32", blocks, True, fraction, 23, "zero", least)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "chained"])
@pytest.mark.parametrize("operand", ["bf16", "fp16"])
@pytest.mark.parametrize("unit", list(emulator.UNITS))
def test_emulated_unit_follows_its_model(unit: str, operand: str, kind: str) -> None:
    x, y, c = random(operand, "fp32", 16, kind, COUNT)
    want = dot(model(unit, operand), x, y, c)
    assert torch.equal(emulated(unit, operand, x, y, c), want)


@pytest.mark.parametrize("operand", ["bf16", "fp16"])
def test_emulated_unit_gives_the_bits_that_an_h100_gave(operand: str) -> None:
    (vector,) = (v for v in load("hardware_h100") if v.id == f"dot-{operand}-fp32")
    x, y = (vector.inputs[name].view(torch.int16).long() for name in ("x", "y"))
    c = vector.inputs["c"].view(torch.int32).long()
    count, padded = len(c), torch.zeros(-len(c) % 8, dtype=torch.int64)
    given = (x, padded.repeat(16)), (y, padded.repeat(16)), (c, padded)
    got = emulated("hopper", operand, *(torch.cat(pair) for pair in given))[:count]
    for instruction, peer in vector.peers.items():
        want = peer["sum"].view(torch.int32).long() & 0xFFFFFFFF
        assert torch.equal(got, want), instruction


@pytest.mark.parametrize("kind", ["near", "wide", "cancelling", "tiny"])
@pytest.mark.parametrize("operand", ["bf16", "fp16"])
@pytest.mark.parametrize("unit", list(emulator.UNITS))
def test_oracle_accumulates_as_the_model(unit: str, operand: str, kind: str) -> None:
    x, y, c = random(operand, "fp32", 16, kind, COUNT)
    unit_of_oracle = ACCUMULATORS[f"hmma_{unit}"]
    declared = unit_of_oracle.terms, unit_of_oracle.fraction
    assert (*declared, unit_of_oracle.minimum_exponent) == emulator.UNITS[unit]
    got = torch.cat(
        [
            accumulate(
                decode(x[i : i + 1], operand), decode(y[i : i + 1], operand),
                unit_of_oracle, formats=(operand, operand),
                start=decode(c[i : i + 1, None], "fp32"),
            )[0]
            for i in range(0, COUNT, 4)
        ]
    )  # fmt: skip
    want = decode(dot(model(unit, operand), x, y, c)[::4], "fp32")
    assert torch.equal(got, want)
