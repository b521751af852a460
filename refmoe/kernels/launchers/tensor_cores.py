"""The tensor-core kernel: which GEMMs it takes, by which instruction and tactic."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from oracle.params import Blocks
from refmoe.kernels import tuning
from refmoe.kernels.launch import Kernel, aligned, blocks_for, current
from refmoe.kernels.launchers.formats import TYPES, Geometry
from refmoe.kernels.launchers.gemm import Gemm, naive
from refmoe.kernels.launchers.operands import Matrix, Packed, operand_struct, stored
from refmoe.kernels.launchers.tactics import (
    FILE,
    TACTICS,
    Instruction,
    Tactic,
    bits_of,
    shared_limit,
    tactics,
)

#: Products of two int8 codes that an int32 sum holds.
_DEEPEST = (2**31 - 1) // 128**2
#: The tactics that scales leave as they are.
_SCALED = ("small", "medium")
#: Bytes of a matrix whose rows 32 bits count in steps of 16.
_LARGEST = 16 * (2**32 - 1)


def instruction(gemm: Gemm) -> Instruction | str:
    """How tensor cores do `gemm`, or why they do not."""
    x, w = stored(gemm.x), stored(gemm.w)
    if x == "fp32":
        return "x is fp32, which no unit multiplies exactly"
    if w in TYPES.values() and w != x:
        return f"weights are {w}, but x is {x}"
    if w == "nibbles_sm90":
        return "weights are interleaved for another kernel"
    unit = x if x in TYPES.values() else "bf16"
    if (x, w) == ("int8", "int8"):
        unit = "element::int8"
    for name, matrix in (("x", gemm.x), ("weights", gemm.w)):
        bits = bits_of(_storage(stored(matrix)))
        tensor = matrix if isinstance(matrix, torch.Tensor) else matrix.codes
        if matrix.shape[-1] * bits % 128 or not aligned(16, tensor):
            return f"rows of {name} do not start at multiples of 16 bytes"
        if matrix.shape[-2] * matrix.shape[-1] * bits >= 8 * _LARGEST:
            return f"{name} of one expert take {_LARGEST} bytes or more"
    runs = [run for run in map(_run, (gemm.x, gemm.w)) if run]
    made = Instruction(
        unit, _storage(x), _storage(w), any(map(_is_scaled, (gemm.x, gemm.w))),
        math.gcd(*runs),
    )  # fmt: skip
    if made.period % made.depth:
        return f"scales of {made.period} columns are less than one instruction's"
    if unit == "element::int8" and gemm.x.shape[1] > _DEEPEST:
        return f"K={gemm.x.shape[1]} may overflow an int32 sum"
    return made


def tensor_cores(gemm: Gemm, tactic: Tactic | None = None) -> torch.Tensor:
    """The GEMM by mma.sync; what the units do not take goes to the naive kernel.

    Operands meet the unit as they are stored, codes as 16-bit floats that hold them
    (int8 as it is; FP8 as well, since units of its own may keep 14 bits of a sum, while
    Hopper's mma.sync of FP8 converts to fp16 itself, see oracle/vectors/hardware_h100);
    scales multiply the sums of their blocks. Every tactic gives the same bits.

    Raises ValueError for a tactic that takes more shared memory than the target has.
    """
    gemm.check()
    how = instruction(gemm)
    if isinstance(how, str):
        return naive(gemm)
    target = current().target(gemm.device)
    own = (tactic or choice(gemm, how, target)).taken(how)
    shared, limit = own.shared(how), shared_limit(target)
    if shared > limit:
        raise ValueError(
            f"grouped_gemm: a tile of {own.height} x {own.columns} with {own.stages} "
            f"stages takes {shared} bytes of shared memory, {target} has {limit}; take "
            "another tactic"
        )
    out = gemm.empty()
    halves = 2 if gemm.gated else 1
    tiles = gemm.rows // own.height + min(gemm.w.shape[0], gemm.rows) + 1
    across = blocks_for(gemm.width * halves, own.columns)
    Kernel(FILE, own.kernel(how, gemm.curve))(
        tiles * across if gemm.rows else 0, own.threads, operand_struct(gemm.x),
        operand_struct(gemm.w), gemm.job(), gemm.parameters(), np.int32(how.period),
        out, device=gemm.device, shared=shared,
    )  # fmt: skip
    return out


def fixed(name: str) -> partial[torch.Tensor]:
    """The backend that always takes the tactic `name`."""
    return partial(tensor_cores, tactic=TACTICS[name])


def tune(gemm: Gemm) -> Tactic:
    """Measure the tactics on `gemm` and keep the fastest for GEMMs of its sizes.

    Raises ValueError for a GEMM that tensor cores do not take, and while
    $REFMOE_TACTICS pins the choices.
    """
    gemm.check()
    how = instruction(gemm)
    if isinstance(how, str):
        raise ValueError(f"tune: {how}; there is no tactic to choose")
    target = current().target(gemm.device)
    return tuning.tune(
        tactic_key(gemm, target), tuple(tactics(target).values()),
        lambda tactic: tensor_cores(gemm, tactic), gemm.device,
    )  # fmt: skip


def tactic_key(gemm: Gemm, target: str) -> str:
    """The name under which the choice for GEMMs of this shape is kept."""
    experts, n, k = gemm.w.shape
    return tuning.key(
        "grouped_gemm", target, rows=tuning.bucket(gemm.rows), E=experts, N=n, K=k,
        x=stored(gemm.x), w=stored(gemm.w), act=gemm.curve,
    )  # fmt: skip


def choice(gemm: Gemm, how: Instruction, target: str) -> Tactic:
    """The kept choice, else the first whose tile holds the rows of most experts."""
    offered = tactics(target)
    kept = tuning.chosen(tactic_key(gemm, target), tuple(offered.values()))
    if kept is not None:
        return kept
    experts = gemm.w.shape[0]
    # A quarter more than the average: few experts then need a second tile.
    rows = gemm.rows if experts == 1 else 1.25 * gemm.rows / max(experts, 1)
    usual = [t for name, t in offered.items() if not how.scaled or name in _SCALED]
    return next((tactic for tactic in usual if rows <= tactic.height), usual[-1])


def _storage(name: str) -> str:
    """The class of fragments.cuh that reads elements stored so."""
    if name in TYPES.values():
        return f"Values<{name}>"
    return "Nibbles" if name == "nibbles" else f"Bytes<element::{name}>"


def _is_scaled(matrix: Matrix) -> bool:
    return isinstance(matrix, Blocks | Packed)


def _run(matrix: Matrix) -> int:
    """Columns that share a scale; 0 where all do."""
    if isinstance(matrix, torch.Tensor):
        return 0
    columns = Geometry.of("grouped_gemm", matrix.shape, matrix.format).block_columns
    return 0 if columns >= matrix.shape[-1] else columns
