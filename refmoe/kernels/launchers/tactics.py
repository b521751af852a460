"""What instances of the tensor-core kernel there are: instructions and tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

FILE = "grouped_mma.cu"
#: What stands for the compile target in the emulator.
EMULATED = "emulated"
#: Elements along k of one stage (kSteps of fragments.cuh).
_STEPS = 64


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

    @property
    def run(self) -> int:
        """Instructions after which sums may meet their scales; 0 where they never do.

        >>> Instruction("bf16", "Values<bf16>", "Nibbles", True, 32).run
        2
        """
        stage = _STEPS // self.depth
        return math.gcd(self.period // self.depth, stage) if self.scaled else 0

    @staticmethod
    def pitch(operand: str) -> int:
        """Bytes of a tile's row in shared memory (kPitch of fragments.cuh)."""
        return _STEPS * bits_of(operand) // 8


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

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.m_warps * self.n_warps

    def taken(self, how: Instruction) -> Tactic:
        """A narrower tile where scales take a second set of sums."""
        if how.scaled and self.m_tiles * self.n_tiles > 16:
            return replace(self, n_tiles=self.n_tiles // 2).taken(how)
        return self

    def kernel(self, how: Instruction, curve: str) -> str:
        """The kernel of FILE."""
        shape = (self.m_warps, self.n_warps, self.m_tiles, self.n_tiles, self.stages)
        names = (how.unit, how.x, how.w, curve, how.run, *shape)
        return f"gemm_mma<{', '.join(map(str, names))}>"

    def shared(self, how: Instruction) -> int:
        """Bytes of shared memory: the stages with rows' numbers, then the sums."""
        stage = self.height * how.pitch(how.x) + self.columns * how.pitch(how.w)
        sums = 4 * self.height * (self.columns + 8)
        return max(self.stages * stage + 8 * self.height, sums)


#: All give the same bits: they add up along k in the same order.
TACTICS: dict[str, Tactic] = {
    "small": Tactic(1, 4, 1, 4, 4),
    "medium": Tactic(1, 4, 4, 4, 4),
    "large": Tactic(2, 2, 3, 8, 3),
    "huge": Tactic(2, 2, 4, 8, 3),
}
#: Bytes of shared memory that a block may take; elsewhere what every GPU has.
_SHARED = {
    "sm_80": 163 << 10, "sm_90a": 227 << 10, "sm_100a": 227 << 10, EMULATED: 227 << 10,
}  # fmt: skip
_SHARED_EVERYWHERE = 99 << 10


def shared_limit(target: str) -> int:
    """Bytes of shared memory that a block may take on a GPU of `target`."""
    return _SHARED.get(target, _SHARED_EVERYWHERE)


def tactics(target: str) -> dict[str, Tactic]:
    """Those that fit a GPU of compile target `target`, with bf16 operands.

    >>> sorted(tactics("sm_89"))
    ['huge', 'large', 'medium', 'small']
    """
    how = Instruction("bf16", "Values<bf16>", "Values<bf16>", False, 0)
    limit = shared_limit(target)
    return {name: t for name, t in TACTICS.items() if t.shared(how) <= limit}


def bits_of(storage: str) -> int:
    """Bits of one element under a class of fragments.cuh."""
    return {"V": 16, "B": 8, "N": 4}[storage[0]]
