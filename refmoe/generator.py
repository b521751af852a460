"""Random numbers that are the same everywhere: a counter-based generator in integers.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011) in 64-bit integer arithmetic: element n
of a stream depends on the seed, the stream's name and n alone; never on the machine,
the thread count or the version of a library. Floats are built exactly from integers,
without a mathematical library.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
import numpy.typing
import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (numpy.uint64(0xD2511F53), numpy.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD, _HALF = numpy.uint64(32), numpy.uint64(16)
#: Blocks made at a time: the five arrays of their words stay in the cache.
RUN = 1 << 14

Shape = Sequence[int]
Words = numpy.typing.NDArray[numpy.uint64]


def philox(counter: Sequence[Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Ten rounds of Philox-4x32, over the arrays of the counter's four words.

    Shapes: four u64[N] of 32-bit words, overwritten; the result likewise

    >>> words = philox([numpy.zeros(1, numpy.uint64) for _ in range(4)], (0, 0))
    >>> [hex(word[0]) for word in words]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    low, high = numpy.uint64(_MASK), numpy.empty_like(c0)
    for _ in range(_ROUNDS):
        # 32-bit words have 64-bit products: both halves are kept.
        for word, factor, other, part in (
            (c2, _MULTIPLIERS[1], c1, k0), (c0, _MULTIPLIERS[0], c3, k1)
        ):  # fmt: skip
            numpy.multiply(word, factor, out=word)
            numpy.right_shift(word, _WORD, out=high)
            numpy.bitwise_xor(other, high, out=other)
            numpy.bitwise_xor(other, numpy.uint64(part), out=other)
            numpy.bitwise_and(word, low, out=word)
        c0, c1, c2, c3 = c1, c2, c3, c0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2.0**exponents as f64, built from its bits; exponents i64 in -1022..1023."""
    return ((exponents + 1023) << 52).view(torch.float64)


@dataclass(frozen=True, slots=True)
class Stream:
    """An endless sequence of 32-bit words, named; streams of other names are unrelated.

    Every method starts at the stream's beginning: draw each tensor from a stream of its
    own (`substream`).
    """

    seed: int
    name: str = ""

    def substream(self, name: str) -> Stream:
        """The stream `name` below this one."""
        return Stream(self.seed, f"{self.name}/{name}")

    @property
    def key(self) -> tuple[int, int]:
        """Two 32-bit words of the SHA-256 of seed and name."""
        digest = hashlib.sha256(f"{self.seed}:{self.name}".encode()).digest()
        return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")

    def _blocks(self, count: int) -> Iterator[tuple[slice, tuple[Words, ...]]]:
        """The first `count` blocks of four words, some at a time."""
        key = self.key
        for start in range(0, count, RUN):
            part = slice(start, min(start + RUN, count))
            block = numpy.arange(part.start, part.stop, dtype=numpy.uint64)
            none = numpy.zeros_like(block)
            counter = (block & numpy.uint64(_MASK), block >> _WORD, none, none.copy())
            yield part, philox(counter, key)

    def words(self, shape: Shape) -> torch.Tensor:
        """Uniform 32-bit words i64[*shape]."""
        count = math.prod(shape)
        found = numpy.empty((-(-count // 4), 4), numpy.int64)
        for part, words in self._blocks(len(found)):
            for place, word in enumerate(words):
                found[part, place] = word
        return torch.from_numpy(found).reshape(-1)[:count].reshape(tuple(shape))

    def integers(self, shape: Shape, low: int, high: int) -> torch.Tensor:
        """Integers i64[shape] from low to high, both included.

        Raises ValueError if the range is empty or wider than 2^31.
        """
        span = high - low + 1
        if not 1 <= span <= 1 << 31:
            raise ValueError(
                f"Stream.integers: {low}..{high} must hold 1 to 2^31 integers"
            )
        return ((self.words(shape) * span) >> 32) + low

    def dyadic(self, shape: Shape, bits: int = 24) -> torch.Tensor:
        """Uniform f64[shape] in (-1, 1): odd multiples of 2^-bits, so never zero."""
        steps = self.words(shape) >> (32 - bits)
        return (2 * steps + 1 - (1 << bits)).double() * 2.0**-bits

    def normal(self, shape: Shape) -> torch.Tensor:
        """Approximately normal f64[shape], variance 1, |x| < 4.9.

        The sum of eight uniform 16-bit integers (Irwin-Hall), centred and scaled by
        sqrt(12 / 8): one correctly rounded product.
        """
        found = numpy.empty(math.prod(shape))
        low = numpy.uint64(0xFFFF)
        for part, words in self._blocks(len(found)):
            # Two halves of a word add up to the word less 2^16 - 1 times the upper one.
            total = words[0] + words[1] + words[2] + words[3]
            upper = sum((word >> _HALF for word in words[1:]), words[0] >> _HALF)
            total -= upper * low
            found[part] = 2.0 * total - 8 * 0xFFFF
        return torch.from_numpy(found * (1.224744871391589 / 131072)).reshape(
            tuple(shape)
        )

    def choose(self, shape: Shape, values: Sequence[float]) -> torch.Tensor:
        """Elements f64[shape] of `values`, each as likely."""
        table = torch.tensor(list(values), dtype=torch.float64)
        return table[self.integers(shape, 0, len(values) - 1)]

    def permutations(self, rows: int, size: int) -> torch.Tensor:
        """One permutation i64[rows, size] of 0..size-1 per row.

        Sorts distinct keys (word, position), so the order of equal words is defined.
        """
        position = torch.arange(size)
        return ((self.words((rows, size)) << 24) | position).argsort(-1)
