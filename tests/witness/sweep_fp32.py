"""Every fp32 bit pattern through the oracle and its witnesses: prints a JSON summary.

    python tests/witness/sweep_fp32.py --processes 16 --slices 0:256 --stride 1

Needs torch, numpy and ml_dtypes. A slice is one 256th of all 2^32 patterns, from the
most negative integer up; a disagreement lists its first pattern. Exit status 1 where
there is any. All of it takes about half a core hour.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oracle.blocks.elements import codes_of
from oracle.formats import encode, get
from oracle.spec import BlockFormat

SLICE = 1 << 24
PIECE = 1 << 20
SMALL = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}
WIDE = {"bf16": ml_dtypes.bfloat16, "fp16": numpy.float16}
TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}

Check = tuple[str, torch.Tensor, torch.Tensor]


def _ml_dtypes(values: torch.Tensor, kind: type, width: type) -> torch.Tensor:
    with numpy.errstate(all="ignore"):
        return torch.from_numpy(values.numpy().astype(kind).view(width))


def _clipped(values: torch.Tensor, name: str) -> torch.Tensor:
    maximum = get(name).maximum
    return values.clamp(-maximum, maximum)


def checks(values: torch.Tensor) -> Iterator[Check]:
    """(what, our codes, their codes) of fp32 numbers, NaN left out."""
    for name, kind in SMALL.items():
        clipped = _clipped(values, name)
        ours = encode(values, name)
        theirs = _ml_dtypes(clipped, kind, numpy.uint8)
        yield f"encode {name} = ml_dtypes", ours, theirs
        by_table = codes_of(values, BlockFormat(name, name))
        yield f"table {name} = ml_dtypes", by_table, theirs
        if name in TORCH:
            cast = clipped.to(TORCH[name]).view(torch.uint8)
            yield f"encode {name} = torch", ours, cast
    for name, kind in WIDE.items():
        ours = encode(values, name, saturate=False)
        theirs = _ml_dtypes(values, kind, numpy.int16)
        yield f"encode {name} = {kind.__name__}", ours, theirs


def sweep(index: int, stride: int) -> dict[str, dict[str, int]]:
    """Counts of one slice: patterns compared and differing, by check."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, int]] = {}
    first = index * SLICE - 2**31
    for start in range(first, first + SLICE, PIECE * stride):
        stop = min(start + PIECE * stride, first + SLICE)
        bits = torch.arange(start, stop, stride, dtype=torch.int64).to(torch.int32)
        values = bits.view(torch.float32)
        kept = ~values.isnan()
        bits, values = bits[kept], values[kept]
        for what, ours, theirs in checks(values):
            row = found.setdefault(what, {"compared": 0, "differing": 0})
            different = ours != theirs
            row["compared"] += len(values)
            row["differing"] += int(different.sum())
            if bool(different.any()) and "first" not in row:
                row["first"] = int(bits[different][0]) & 0xFFFFFFFF
    return found


def _work(job: tuple[int, int]) -> dict[str, dict[str, int]]:
    return sweep(*job)


def main() -> int:
    """Run the slices over processes, add up, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--slices", default="0:256", help="first:last of the 256")
    parser.add_argument("--stride", type=int, default=1, help="every n-th pattern")
    given = parser.parse_args()
    first, last = (int(end) for end in given.slices.split(":"))
    jobs = [(index, given.stride) for index in range(first, last)]
    total: dict[str, dict[str, int]] = {}
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for found in pool.imap_unordered(_work, jobs):
            for what, row in found.items():
                sums = total.setdefault(what, {"compared": 0, "differing": 0})
                sums["compared"] += row["compared"]
                sums["differing"] += row["differing"]
                if "first" in row:
                    sums["first"] = min(row["first"], sums.get("first", 2**32))
    seconds = round(time.time() - began, 1)
    print(json.dumps({"slices": len(jobs), "seconds": seconds, "checks": total}))
    return int(any(row["differing"] for row in total.values()))


if __name__ == "__main__":
    raise SystemExit(main())
