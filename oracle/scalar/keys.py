"""Exact comparison of selection keys: which of two sums of scores is larger.

A key is a rational plus a sum of scores, each the score of one logit. Two keys are
equal only where their scores cancel: the same logits on both sides (in any order), or,
for the sigmoid, a pair l and -l, whose scores sum to 1. What remains is an irrational
difference (for exponentials by the Lindemann-Weierstrass theorem), and enough digits
decide its sign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from oracle.scalar.interval import EXACT, Interval, Precision, precision, total

#: Bits of the last attempt to tell two keys apart.
MOST_BITS = 1 << 14


class Undecided(ArithmeticError):
    """Two different-looking keys agree to `MOST_BITS` bits."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One logit cap(x) + bias, where cap is the softcap (or nothing)."""

    x: Fraction
    bias: Fraction = Fraction(0)

    @property
    def negated(self) -> Atom:
        """The atom of the opposite logit (cap is odd)."""
        return Atom(-self.x, -self.bias)

    def at_least(self, other: Atom) -> bool:
        """Whether this logit is certainly >= the other (cap increases)."""
        return self.x >= other.x and self.bias >= other.bias


@dataclass(frozen=True, slots=True)
class Key:
    """rational + sum of score(atom); minus infinity where `removed`."""

    rational: Fraction
    atoms: tuple[Atom, ...] = ()
    removed: bool = False

    def __add__(self, other: Key) -> Key:
        return Key(
            self.rational + other.rational,
            self.atoms + other.atoms,
            self.removed or other.removed,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares keys under one score; `mirrored`: score(l) + score(-l) = 1."""

    score: Callable[[Atom], Interval]
    mirrored: bool = False

    def greater(self, a: Key, b: Key) -> bool:
        """Whether a > b; equal keys are not greater."""
        if a.removed or b.removed:
            return b.removed and not a.removed
        rational, left, right = self._cancelled(a, b)
        if not left and not right:
            return rational > 0
        if _dominates(left, right) and rational >= 0:
            return True
        if _dominates(right, left) and rational <= 0:
            return False
        bits = EXACT.bits
        while bits <= MOST_BITS:
            with precision(Precision(bits)):
                difference = total(
                    [rational]
                    + [self.score(atom) for atom in left]
                    + [-self.score(atom) for atom in right]
                )
            if difference.low > 0:
                return True
            if difference.high < 0 or difference.point:
                return False
            bits *= 4
        raise Undecided(f"scalar: keys {a} and {b} agree to {MOST_BITS} bits")

    def _cancelled(
        self, a: Key, b: Key
    ) -> tuple[Fraction, tuple[Atom, ...], tuple[Atom, ...]]:
        """a - b as rational + left atoms - right atoms, with nothing in common."""
        left, right = Counter(a.atoms), Counter(b.atoms)
        common = left & right
        left, right = left - common, right - common
        rational = a.rational - b.rational
        if self.mirrored:
            for side, sign in ((left, 1), (right, -1)):
                rational += sign * _pair_off(side)
        return rational, tuple(left.elements()), tuple(right.elements())

    def order(self, keys: list[Key]) -> list[int]:
        """Positions by descending key, equal ones by ascending position."""
        ranked: list[int] = []
        for position, key in enumerate(keys):
            place = len(ranked)
            while place and self.greater(key, keys[ranked[place - 1]]):
                place -= 1
            ranked.insert(place, position)
        return ranked


def _pair_off(atoms: Counter[Atom]) -> Fraction:
    """Remove pairs l, -l from `atoms`; how much their scores sum to."""
    removed = Fraction(0)
    for atom in list(atoms):
        opposite = atom.negated
        itself = atom == opposite
        pairs = atoms[atom] // 2 if itself else min(atoms[atom], atoms[opposite])
        atoms[atom] -= pairs
        atoms[opposite] -= pairs
        removed += pairs
        if itself and atoms[atom]:
            atoms[atom] -= 1
            removed += Fraction(1, 2)
    return removed


def _dominates(left: tuple[Atom, ...], right: tuple[Atom, ...]) -> bool:
    """Whether the left logits, matched by size, are each at least the right ones.

    Scores increase strictly and are positive where they are not the logits themselves,
    so that an equal count is required; unequal atoms make the sum strictly greater.
    """
    if len(left) != len(right):
        return False
    matched = zip(_sorted(left), _sorted(right), strict=True)
    return all(a.at_least(b) for a, b in matched)


def _sorted(atoms: tuple[Atom, ...]) -> list[Atom]:
    return sorted(atoms, key=lambda atom: (atom.x, atom.bias))
