"""The emulator itself: what it computes, and what it refuses to let pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from refmoe.kernels import emulator, source
from refmoe.kernels.launch import Kernel

TEXT = """
#include "mma.cuh"
__global__ void lanes(i32* out) {
  const int lane = threadIdx.x % 32, own = int(threadIdx.x);
  i32* to = out + threadIdx.x * 8;
  to[0] = __shfl_sync(kAllLanes, own, 5);
  to[1] = __shfl_xor_sync(kAllLanes, own, 3);
  to[2] = __shfl_up_sync(kAllLanes, own, 2);
  to[3] = __shfl_down_sync(kAllLanes, own, 4, 8);
  to[4] = int(__ballot_sync(kAllLanes, lane < 3));
  to[5] = int(__reduce_max_sync(kAllLanes, u32(own * 7 % 32)));
  to[6] = int(__match_any_sync(kAllLanes, lane / 16));
  to[7] = __any_sync(kAllLanes, lane == 31) + 2 * __all_sync(kAllLanes, lane < 31);
}
__global__ void reversed(i32* out, i32 count) {
  __shared__ i32 room[64];
  DYNAMIC_SHARED(memory);
  i32* second = reinterpret_cast<i32*>(memory);
  const i32 i = i32(threadIdx.x);
  room[i] = i;
  __syncthreads();
  second[i] = room[count - 1 - i];
  __syncthreads();
  out[blockIdx.x * blockDim.x + i] = second[i] + 100 * i32(blockIdx.x);
}
__global__ void racing(i32* out) { if (threadIdx.x < 40) *out = i32(threadIdx.x); }
__global__ void ahead(i32* out) {
  __shared__ i32 room[2];
  i32 sum = 0;
  for (i32 turn = 0; turn < 4; ++turn) {
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = turn;
    __syncthreads();
    sum += room[0] + room[1] + __shfl_sync(kAllLanes, 0, 0);
  }
  out[threadIdx.x] = sum;
}
__global__ void half_a_barrier(i32* out) {
  if (threadIdx.x < 8) __syncthreads();
  *out = 1;
}
__global__ void left_early(i32* out) {
  if (threadIdx.x == 3) return;
  out[0] = __shfl_sync(kAllLanes, 1, 3);
}
__global__ void other_masks(i32* out) {
  out[0] = __shfl_sync(threadIdx.x < 4 ? 0x1Fu : kAllLanes, 1, 0);
}
__global__ void tiles(const u32* a, const u32* b, float* c) {
  const int lane = threadIdx.x;
  u32 x[4], y[2];
  float sums[4];
  for (int i = 0; i < 4; ++i) x[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) y[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) sums[i] = c[lane * 4 + i];
  multiply_accumulate<bf16>(sums, x, y[0], y[1]);
  for (int i = 0; i < 4; ++i) c[lane * 4 + i] = sums[i];
}
__global__ void octets(const u32* a, const u32* b, i32* c) {
  const int lane = threadIdx.x;
  u32 x[4], y[2];
  i32 sums[4] = {};
  for (int i = 0; i < 4; ++i) x[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) y[i] = b[lane * 2 + i];
  multiply_accumulate<element::int8>(sums, x, y[0], y[1]);
  for (int i = 0; i < 4; ++i) c[lane * 4 + i] = sums[i];
}
__global__ void late(const i32* from, i32* out) {
  DYNAMIC_SHARED(memory);
  i32* room = reinterpret_cast<i32*>(memory) + 4 * threadIdx.x;
  for (int i = 0; i < 4; ++i) room[i] = -1;
  copy_async(room, from + 4 * threadIdx.x, 12);
  commit_copies();
  out[threadIdx.x * 5] = room[0];
  wait_for_copies<1>();
  out[threadIdx.x * 5 + 1] = room[0];
  wait_for_copies<0>();
  for (int i = 0; i < 3; ++i) out[threadIdx.x * 5 + 2 + i] = room[i + 1];
}
__global__ void crooked(const i32* from) {
  DYNAMIC_SHARED(memory);
  copy_async(memory + 8, from, 16);
}
__global__ void outside(i32* out) {
  out[0] = __shfl_sync(1u << (threadIdx.x % 32), 1, 40);
}
"""


@pytest.fixture(autouse=True)
def room(host_compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe.cu").write_text(TEXT)
    for path in source.ROOM.glob("*.cuh"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(
        emulator, "expand", lambda name, room=tmp_path: source.expand(name, room)
    )
    # All instances in one library: it is built once and then read from disk.
    names = ("lanes", "reversed", "racing", "ahead", "half_a_barrier", "left_early",
             "other_masks", "outside", "tiles", "octets", "late",
             "crooked")  # fmt: skip
    monkeypatch.setattr(emulator.catalogue, "instances", lambda: {"probe.cu": names})


def run(name: str, grid: int, block: int, *arguments: object, seed: int = 0) -> None:
    with emulator.emulated(seed):
        Kernel("probe.cu", name)(
            grid, block, *arguments, device=torch.device("cpu"), shared=256
        )


@pytest.mark.parametrize("seed", [0, 3])
def test_emulator_moves_values_between_lanes(seed: int) -> None:
    out = torch.zeros(64, 8, dtype=torch.int32)
    run("lanes", 1, 64, out, seed=seed)
    thread = torch.arange(64)
    lane, warp = thread % 32, thread // 32 * 32
    unsigned = out.long() & 0xFFFFFFFF
    assert torch.equal(out[:, 0].long(), warp + 5)
    assert torch.equal(out[:, 1].long(), warp + (lane ^ 3))
    assert torch.equal(out[:, 2].long(), torch.where(lane < 2, thread, thread - 2))
    assert torch.equal(out[:, 3].long(), torch.where(lane % 8 < 4, thread + 4, thread))
    assert bool((out[:, 4] == 0b111).all())
    assert bool((out[:, 5] == 31).all())
    halves = torch.where(lane < 16, 0xFFFF, 0xFFFF0000)
    assert torch.equal(unsigned[:, 6], halves)
    assert bool((out[:, 7] == 1).all())


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_emulator_waits_at_barriers(seed: int) -> None:
    out = torch.zeros(3, 64, dtype=torch.int32)
    run("reversed", 3, 64, out, np.int32(64), seed=seed)
    want = torch.arange(63, -1, -1) + 100 * torch.arange(3)[:, None]
    assert torch.equal(out.long(), want)


def test_emulator_shows_races_by_the_order_of_threads() -> None:
    last = set()
    for seed in range(6):
        out = torch.zeros(1, dtype=torch.int32)
        run("racing", 1, 64, out, seed=seed)
        last.add(int(out))
    assert len(last) > 1


def test_emulator_shows_a_warp_that_runs_ahead() -> None:
    """Catches shared memory that a warp overwrites while another still reads it."""
    sums = set()
    for seed in range(4):
        out = torch.zeros(64, dtype=torch.int32)
        run("ahead", 1, 64, out, seed=seed)
        sums |= set(out.tolist())
    assert 12 in sums
    assert len(sums) > 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half_a_barrier", "threads wait for a barrier|after a thread of the block"),
        ("left_early", "a lane that has left or does not exist"),
        ("other_masks", "lanes of a warp disagree on a collective's mask"),
        ("outside", "a shuffle reads a lane outside its mask"),
    ],
)
def test_emulator_refuses_undefined_behaviour(name: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(name, 1, 32, torch.zeros(1, dtype=torch.int32))
    out = torch.zeros(3, 64, dtype=torch.int32)
    run("reversed", 3, 64, out, np.int32(64))
    assert int(out[2, 63]) == 200


def fragments(tile: torch.Tensor, operand: str, per_word: int) -> torch.Tensor:
    """Words i32[32, n] of a tile, element by element as the PTX ISA lists them."""
    bits = 32 // per_word
    words = torch.zeros(32, 4 if operand == "a" else 2, dtype=torch.int64)
    for lane in range(32):
        group, thread = divmod(lane, 4)
        for i in range(words.shape[1] * per_word):
            word, place = divmod(i, per_word)
            if operand == "a":
                row = group + 8 * (word % 2)
                k = thread * per_word + place + 4 * per_word * (word // 2)
            else:
                row, k = group, thread * per_word + place + 4 * per_word * word
            element = int(tile[row, k]) & ((1 << bits) - 1)
            words[lane, word] |= element << (bits * place)
    return words.to(torch.int32)


def accumulators(tile: torch.Tensor) -> torch.Tensor:
    """c[lane, i] of a tile [16, 8]."""
    lane, i = torch.arange(32)[:, None], torch.arange(4)
    return tile[lane // 4 + 8 * (i // 2), lane % 4 * 2 + i % 2].contiguous()


def test_emulator_multiplies_the_fragments_of_the_isa() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (
        torch.randint(-9, 9, shape, generator=generator)
        for shape in ((16, 16), (8, 16), (16, 8))
    )
    words = [
        fragments(tile.bfloat16().view(torch.int16).int(), name, 2)
        for tile, name in ((a, "a"), (b, "b"))
    ]
    sums = accumulators(c.float())
    run("tiles", 1, 32, *words, sums)
    assert torch.equal(sums, accumulators((c + a @ b.T).float()))
    a, b = (torch.randint(-128, 128, (n, 32), generator=generator) for n in (16, 8))
    words = [fragments(tile, name, 4) for tile, name in ((a, "a"), (b, "b"))]
    whole = torch.zeros(32, 4, dtype=torch.int32)
    run("octets", 1, 32, *words, whole)
    assert torch.equal(whole.long(), accumulators(a @ b.T))


def test_emulator_copies_as_late_as_the_wait() -> None:
    given = torch.arange(1, 33, dtype=torch.int32)
    out = torch.zeros(8, 5, dtype=torch.int32)
    run("late", 1, 8, given, out)
    assert out[:, :2].eq(-1).all()
    assert out[1].tolist() == [-1, -1, 6, 7, 0]
    with pytest.raises(RuntimeError, match="addresses that are not aligned"):
        run("crooked", 1, 1, given)


def test_emulator_checks_the_width_of_arguments() -> None:
    out = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="argument 1 has 8 bytes, its parameter 4"):
        run("reversed", 1, 64, out, 64)
    with pytest.raises(RuntimeError, match="1 arguments for 2 parameters"):
        run("reversed", 1, 64, out)
    with pytest.raises(RuntimeError, match="a block has 1 to 1024 threads"):
        run("racing", 1, 2048, out)


def test_emulator_names_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match=r"install g\+\+ or set \$CXX"):
        emulator.compiler.__wrapped__()
