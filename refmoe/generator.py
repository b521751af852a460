"""Random numbers that are the same everywhere: a counter-based generator in integers.

Philox-4x32-10 (Salmon, Moraes, Dror, Shaw 2011) in int64 tensor arithmetic: element n
of a stream depends on the seed, the stream's name and n alone; never on the machine,
the device, the thread count or the version of a library. Floats are built exactly from
integers, without a mathematical library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Shape = Sequence[int]


def philox(counters: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """Ten rounds of Philox-4x32.

    Shapes: counters i64[N, 4] of 32-bit words; the result i64[N, 4] of 32-bit words.

    >>> [hex(word) for word in philox(torch.zeros(1, 4, dtype=torch.int64), (0, 0))[0]]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counters.unbind(-1)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2^64, which keeps both 32-bit halves.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & _MASK) ^ c1 ^ k0,
            second & _MASK,
            ((first >> 32) & _MASK) ^ c3 ^ k1,
            first & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), -1)


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
    device: str = "cpu"

    def substream(self, name: str) -> Stream:
        """The stream `name` below this one."""
        return Stream(self.seed, f"{self.name}/{name}", self.device)

    @property
    def key(self) -> tuple[int, int]:
        """Two 32-bit words of the SHA-256 of seed and name."""
        digest = hashlib.sha256(f"{self.seed}:{self.name}".encode()).digest()
        return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")

    def words(self, shape: Shape, each: int = 1) -> torch.Tensor:
        """Uniform 32-bit words i64[*shape, each]; no last axis if each is 1."""
        count = each
        for size in shape:
            count *= size
        blocks = torch.arange(-(-count // 4), device=self.device)
        zero = torch.zeros_like(blocks)
        counters = torch.stack((blocks & _MASK, blocks >> 32, zero, zero), -1)
        words = philox(counters, self.key).reshape(-1)[:count]
        return words.reshape((*shape, each) if each > 1 else tuple(shape))

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
        words = self.words(shape, each=4)
        total = (words & 0xFFFF).sum(-1) + (words >> 16).sum(-1)
        return (2 * total - 8 * 0xFFFF).double() * (1.224744871391589 / 131072)

    def choose(self, shape: Shape, values: Sequence[float]) -> torch.Tensor:
        """Elements f64[shape] of `values`, each as likely."""
        table = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        return table[self.integers(shape, 0, len(values) - 1)]

    def permutations(self, rows: int, size: int) -> torch.Tensor:
        """One permutation i64[rows, size] of 0..size-1 per row.

        Sorts distinct keys (word, position), so the order of equal words is defined.
        """
        position = torch.arange(size, device=self.device)
        return ((self.words((rows, size)) << 24) | position).argsort(-1)
