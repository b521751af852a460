"""Dot products designed to tell how a unit adds: its tree, its alignment, its cuts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch

from .hardware_model import FLOATS
from .hardware_operands import code, value
from .hardware_units import Machine, Unit

Factors = tuple[float, float]
#: Products by their place k, and c.
Case = tuple[Mapping[int, Factors], float]


@dataclass(slots=True)
class Prober:
    """One unit under test, and what was found of it."""

    machine: Machine
    unit: Unit
    found: dict[str, Any] = field(default_factory=dict)

    def encoded(self, cases: list[Case]) -> tuple[torch.Tensor, ...]:
        """x, y and c of each case; places not named multiply zeros."""
        operand, result = FLOATS[self.unit.operand], FLOATS[self.unit.result]
        x = torch.zeros(len(cases), self.unit.depth, dtype=torch.int64)
        y, c = torch.zeros_like(x), torch.zeros(len(cases), dtype=torch.int64)
        for row, (products, start) in enumerate(cases):
            for k, (left, right) in products.items():
                x[row, k], y[row, k] = code(operand, left), code(operand, right)
            c[row] = code(result, start)
        return x, y, c

    def bits(self, cases: list[Case]) -> list[int]:
        """The result bits of each case."""
        return self.machine.run(self.unit, *self.encoded(cases)).tolist()

    def values(self, cases: list[Case]) -> list[float]:
        """The results of each case."""
        return [value(FLOATS[self.unit.result], b) for b in self.bits(cases)]

    def power(self, exponent: int, scale: float = 1.0) -> Factors:
        """Two normal factors whose product is scale 2^exponent (scale: 2 bits)."""
        entry = FLOATS[self.unit.operand]
        half = exponent // 2
        highest = entry.bias + entry.finite_top
        if not 2 * entry.least <= exponent <= 2 * highest:
            raise ValueError(f"2^{exponent} is no product of {self.unit.operand}")
        left = max(half, entry.least)
        return math.ldexp(scale, left), math.ldexp(1.0, exponent - left)

    @property
    def top(self) -> int:
        """The exponent of the large terms that cancel each other."""
        if self.unit.result == "fp16":
            return 14
        return {"e4m3": 16, "e5m2": 24, "fp16": 24}.get(self.unit.operand, 60)

    def last_kept(
        self, case: Callable[[int], Case], right: Callable[[int], float]
    ) -> int | None:
        """The largest d from 1 up to which every case(d) results in right(d)."""
        last = None
        for d in range(1, 64):
            try:
                made = case(d)
                want = right(d)
                code(FLOATS[self.unit.result], want)
            except ValueError:
                break
            if self.values([made])[0] != want:
                return last
            last = d
        # Nothing was lost as far as operands and results reach.
        return None if last is None else 1000 + last


def nodes(prober: Prober) -> None:
    """The summation tree: for each pair that cancels, which terms it swallows."""
    depth, top = prober.unit.depth, prober.top
    big = prober.power(top)
    small = prober.power(-12 if prober.unit.result == "fp16" else top - 28)
    pairs = list(combinations(range(depth + 1), 2))
    cases, wanted = [], []
    for i, j in pairs:
        for k in range(depth + 1):
            if k in (i, j):
                continue
            products, start = {i: big}, 0.0
            if j == depth:
                start = -math.ldexp(1.0, top)
            else:
                products[j] = (-big[0], big[1])
            if k == depth:
                start = small[0] * small[1]
            else:
                products[k] = small
            cases.append((products, start))
            wanted.append((i, j, k))
    swallowed = {pair: set(pair) for pair in pairs}
    for (i, j, k), got in zip(wanted, prober.values(cases), strict=True):
        if got == 0.0:
            swallowed[i, j].add(k)
    sets = {tuple(sorted(members)) for members in swallowed.values()}
    tree = sorted(sets, key=lambda members: (len(members), members))
    prober.found["nodes"] = [
        ["c" if k == depth else k for k in members] for members in tree
    ]


def blocks(prober: Prober) -> None:
    """Blocks in their order, if each node of the tree holds the one before."""
    left: set[int | str] = set()
    found: list[list[int]] = []
    joined = False
    for node in prober.found["nodes"]:
        members = set(node)
        if not left <= members:
            raise ValueError(f"no chain of blocks: {prober.found['nodes']}")
        new = members - left
        own = sorted(k for k in new if k != "c")
        if "c" in new and not left:
            joined = True
        elif "c" in new and own:
            raise ValueError(f"c joins a later block: {prober.found['nodes']}")
        if own:
            found.append(own)
        left = members
    prober.found |= {"blocks": found, "joined": joined}


def fraction(prober: Prober) -> None:
    """How far below the largest term bits are kept, and where exponents come from."""
    places = prober.found["blocks"][0]
    top, one, two, three = prober.top, *places[:3]
    big = prober.power(top)
    pair = {one: big, two: (-big[0], big[1])}
    found = prober.found

    def small(d: int) -> float:
        return math.ldexp(1.0, top - d)

    found["fraction"] = prober.last_kept(
        lambda d: (pair | {three: prober.power(top - d)}, 0.0), small
    )
    odd = prober.power(top, 1.5)
    odd = (odd[0], odd[1] * 1.5)
    large = {one: odd, two: (-odd[0], odd[1])}
    found["fraction, 1.5 * 1.5"] = prober.last_kept(
        lambda d: (large | {three: prober.power(top - d)}, 0.0), small
    )
    found["fraction, c small"] = prober.last_kept(lambda d: (pair, small(d)), small)
    found["fraction, c large"] = prober.last_kept(
        lambda d: (
            {one: (-big[0], big[1]), three: prober.power(top - d)},
            math.ldexp(1.0, top),
        ),
        small,
    )
    least = FLOATS[prober.unit.operand].least
    tiny, lift = math.ldexp(1.0, least - 1), math.ldexp(1.0, min(-least, 20))
    found["subnormal operand"] = prober.values([({one: (tiny, lift)}, 0.0)])[0] / (
        tiny * lift
    )
    sub = {one: (tiny, lift), two: (-tiny, lift)}
    exponent = least - 1 + min(-least, 20)
    found["fraction, subnormal large"] = prober.last_kept(
        lambda d: (sub | {three: prober.power(exponent - d)}, 0.0),
        lambda d: math.ldexp(1.0, exponent - d),
    )


def cuts(prober: Prober) -> None:
    """What becomes of a term's bits below the grain: products, then c, in grains."""
    places = prober.found["blocks"][0]
    top, one, two, three = prober.top, *places[:3]
    big = prober.power(top)
    pair = {one: big, two: (-big[0], big[1])}
    grain = top - prober.found["fraction"]
    found = prober.found
    for name, put in (("product", True), ("c", False)):
        told = {}
        for scale in (0.5, 0.75, 1.0, 1.5):
            for sign in (1.0, -1.0):
                try:
                    left, right = prober.power(grain, scale)
                    # 0.75 grains are 1.5 halves of one.
                    case = (
                        (pair | {three: (sign * left, right)}, 0.0)
                        if put
                        else (pair, sign * math.ldexp(scale, grain))
                    )
                    got = prober.values([case])[0]
                    told[str(sign * scale)] = math.ldexp(got, -grain)
                except ValueError as error:
                    told[str(sign * scale)] = str(error)
        found[f"cut of a {name}"] = told
