"""The tensor-core kernel: which GEMMs it takes, by which instruction and tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from oracle.params import Blocks
from refmoe.kernels import loader, tuning
from refmoe.kernels.launch import Kernel, aligned, blocks_for
from refmoe.kernels.launchers.formats import TYPES, Geometry
from refmoe.kernels.launchers.gemm import Gemm, naive
from refmoe.kernels.launchers.operands import Matrix, Packed, operand_struct, stored

#: Elements along k of one stage (kSteps of fragments.cuh).
_STEPS = 64
#: Products of two int8 codes that an int32 sum holds.
_DEEPEST = (2**31 - 1) // 128**2


@dataclass(frozen=True, slots=True)
class Tactic:
    """Warps down and across a block's tile, m16 and n8 tiles of a warp, stages."""

    m_warps: int
    n_warps: int
    m_tiles: int
    n_tiles: int
    stages: int

    @property
    def height(self) -> int:
        """Rows of a block's tile."""
        return 16 * self.m_warps * self.m_tiles

    @property
    def columns(self) -> int:
        """Rows of the weight in a block's tile."""
        return 8 * self.n_warps * self.n_tiles


#: All give the same bits: they add up along k in the same order.
TACTICS: dict[str, Tactic] = {
    "small": Tactic(1, 4, 1, 4, 4),
    "medium": Tactic(2, 2, 2, 4, 3),
    "large": Tactic(2, 4, 4, 4, 2),
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """What one kernel instance multiplies: its unit and how both operands lie."""

    unit: str
    x: str
    w: str
    scaled: bool
    period: int

    @property
    def depth(self) -> int:
        """Elements along k of one instruction."""
        return 32 if self.unit == "element::int8" else 16

    def pitch(self, operand: str) -> int:
        """Bytes of a tile's row in shared memory (kPitch of fragments.cuh)."""
        bits = _bits(operand)
        return _STEPS * bits // 8 + (32 if self.depth // 4 * bits == 64 else 16)


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
        bits = _bits(_storage(stored(matrix)))
        tensor = matrix if isinstance(matrix, torch.Tensor) else matrix.codes
        if matrix.shape[-1] * bits % 128 or not aligned(16, tensor):
            return f"rows of {name} do not start at multiples of 16 bytes"
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
    (int8 as it is); scales multiply the sums of their blocks. Every tactic gives the
    same bits.
    """
    gemm.check()
    how = instruction(gemm)
    if isinstance(how, str):
        return naive(gemm)
    own = tactic or _choice(gemm, how)
    out = gemm.empty()
    halves = 2 if gemm.gated else 1
    tiles = gemm.rows // own.height + min(gemm.w.shape[0], gemm.rows) + 1
    stage = own.height * how.pitch(how.x) + own.columns * how.pitch(how.w)
    shared = max(own.stages * stage + 8 * own.height, 4 * own.height * own.columns)
    names = (
        how.unit, how.x, how.w, gemm.curve, str(how.scaled).lower(), own.m_warps,
        own.n_warps, own.m_tiles, own.n_tiles, own.stages,
    )  # fmt: skip
    grid = (tiles if gemm.rows else 0, blocks_for(gemm.width * halves, own.columns))
    Kernel("grouped_mma.cu", f"gemm_mma<{', '.join(map(str, names))}>")(
        grid, 32 * own.m_warps * own.n_warps, operand_struct(gemm.x),
        operand_struct(gemm.w), gemm.job(), gemm.parameters(), np.int32(how.period),
        out, device=gemm.device, shared=shared,
    )  # fmt: skip
    return out


def fixed(name: str) -> partial[torch.Tensor]:
    """The backend that always takes the tactic `name`."""
    return partial(tensor_cores, tactic=TACTICS[name])


def tactic_key(gemm: Gemm, target: str) -> str:
    """The name under which the choice for GEMMs of this shape is kept."""
    experts, n, k = gemm.w.shape
    return tuning.key(
        "grouped_gemm", target, rows=tuning.bucket(gemm.rows), E=experts, N=n, K=k,
        x=stored(gemm.x), w=stored(gemm.w), act=gemm.curve,
    )  # fmt: skip


def _choice(gemm: Gemm, how: Instruction) -> Tactic:
    """The kept choice, else by the rows that an expert has on average."""
    if gemm.device.type == "cuda":
        target = loader.target_for(gemm.device.index)
        kept = tuning.chosen(tactic_key(gemm, target), tuple(TACTICS.values()))
        if kept is not None:
            return kept
    each = gemm.rows / max(gemm.w.shape[0], 1)
    if each <= TACTICS["small"].height:
        return TACTICS["small"]
    large = each >= TACTICS["large"].height and not how.scaled
    return TACTICS["large" if large else "medium"]


def _storage(name: str) -> str:
    """The class of fragments.cuh that reads elements stored so."""
    if name in TYPES.values():
        return f"Values<{name}>"
    return "Nibbles" if name == "nibbles" else f"Bytes<element::{name}>"


def _bits(storage: str) -> int:
    return {"V": 16, "B": 8, "N": 4}[storage[0]]


def _is_scaled(matrix: Matrix) -> bool:
    return isinstance(matrix, Blocks | Packed)


def _run(matrix: Matrix) -> int:
    """Columns that share a scale; 0 where all do."""
    if isinstance(matrix, torch.Tensor):
        return 0
    columns = Geometry.of("grouped_gemm", matrix.shape, matrix.format).block_columns
    return 0 if columns >= matrix.shape[-1] else columns
