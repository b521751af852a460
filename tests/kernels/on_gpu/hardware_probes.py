"""Dot products designed to tell how a unit adds, and what their results say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch

from .hardware_model import FLOATS, Model
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

    def bits(self, cases: list[Case]) -> list[int]:
        """The result bits of each case; places not named multiply zeros."""
        operand, result = FLOATS[self.unit.operand], FLOATS[self.unit.result]
        x = torch.zeros(len(cases), self.unit.depth, dtype=torch.int64)
        y, c = torch.zeros_like(x), torch.zeros(len(cases), dtype=torch.int64)
        for row, (products, start) in enumerate(cases):
            for k, (left, right) in products.items():
                x[row, k], y[row, k] = code(operand, left), code(operand, right)
            c[row] = code(result, start)
        return [int(bits) for bits in self.machine.run(self.unit, x, y, c)]

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


def rounding(prober: Prober) -> None:
    """How many bits the sum keeps and how it is rounded to them."""
    places = prober.found["blocks"][0]
    found = prober.found
    base = 0 if prober.unit.result == "fp16" else prober.top
    one = prober.power(base)

    def ones(count: int) -> dict[int, Factors]:
        return dict.fromkeys(places[:count], one)

    kept = {}
    for m in range(4):
        if 2**m >= len(places):
            break
        kept[str(m)] = prober.last_kept(
            lambda d, m=m: (ones(2**m) | {places[2**m]: prober.power(base - d)}, 0.0),
            lambda d, m=m: math.ldexp(2.0**m + 2.0**-d, base),
        )
    found["kept beside 2^m"] = kept
    # Where only the alignment limits it, the sum keeps all bits of its type.
    limits = [
        d + int(m) for m, d in kept.items() if d is not None and d < found["fraction"]
    ]
    bits = FLOATS[prober.unit.result].mantissa
    found["out_fraction"] = min([bits, *limits])
    last = base + 1 - found["out_fraction"]
    told = {}
    for scale in (0.5, 0.75, 1.0, 1.5):
        for sign in (1.0, -1.0):
            left, right = prober.power(last, scale)
            products = dict.fromkeys(places[:2], (sign * one[0], one[1]))
            products[places[2]] = (sign * left, right)
            got = prober.values([(products, 0.0)])[0]
            got -= math.ldexp(sign, base + 1)
            told[str(sign * scale)] = math.ldexp(got, -last)
    found["rounding of a sum"] = told
    found["out_rounding"] = "even" if told["1.5"] == 2.0 else "zero"
    result = FLOATS[prober.unit.result]
    fine = 1.0 + math.ldexp(1.0, -result.mantissa)
    found["c alone"] = [f"{b:x}" for b in prober.bits([({}, fine), ({}, -fine)])]


def floor(prober: Prober) -> None:
    """The exponent below which the grain does not shrink."""
    one, two = prober.found["blocks"][0][:2]
    least = FLOATS[prober.unit.result]
    quantum = least.least - least.mantissa
    found = prober.found
    if found["out_rounding"] == "even":
        # Rounding to nearest hides what lies so far below.
        found["floor"] = -(1 << 12)
        return

    def lost(case: Callable[[Factors], Case]) -> int | None:
        """The largest p for which 2^-p less than the least subnormal is noticed."""
        last = None
        for p in range(1 - quantum, 320):
            try:
                left, right = prober.power(-p)
            except ValueError:
                return None if last is None else 1000 + last
            if prober.values([case((-left, right))])[0] != 0.0:
                return last
            last = p
        return last

    start = math.ldexp(1.0, quantum)
    found["noticed below c"] = lost(lambda product: ({one: product}, start))
    try:
        beside = prober.power(quantum)
        found["noticed below a product"] = lost(
            lambda product: ({one: beside, two: product}, 0.0)
        )
    except ValueError as error:
        found["noticed below a product"] = str(error)
    below = found["noticed below a product"]
    known = isinstance(below, int) and below < 1000
    found["floor"] = found["fraction"] - below if known else -(1 << 12)


def specials(prober: Prober) -> None:
    """Inf, NaN, zeros, subnormals and overflow: bits."""
    operand, result = FLOATS[prober.unit.operand], FLOATS[prober.unit.result]
    inf, nan = math.inf, math.nan
    largest = value(result, result.infinity - 1)
    maximum = value(operand, operand.infinity - 1 << operand.ignored)
    ulp = math.ldexp(1.0, math.frexp(largest)[1] - 1 - result.mantissa)
    every = range(prober.unit.depth)
    minus = dict.fromkeys(every, (-1.0, 0.0))
    cases: dict[str, Case] = {
        "-0 everywhere": (minus, -0.0),
        "-0 products, +0 c": (minus, 0.0),
        "+0 products, -0 c": ({}, -0.0),
        "1 - 1": ({0: (1.0, 1.0), 1: (-1.0, 1.0)}, 0.0),
        "-1 + 1, c -0": ({0: (-1.0, 1.0), 1: (1.0, 1.0)}, -0.0),
        "nan": ({0: (nan, 1.0)}, 0.0),
        "nan * 0": ({0: (nan, 0.0)}, 0.0),
        "c nan": ({}, nan),
        "c inf": ({}, inf),
        "c -inf, 1": ({0: (1.0, 1.0)}, -inf),
        "c largest": ({}, largest),
        "c largest + 1": ({0: (1.0, 1.0)}, largest),
        "c least subnormal": ({}, math.ldexp(1.0, result.least - result.mantissa)),
        "c subnormal + subnormal": (
            {},
            math.ldexp(3.0, result.least - result.mantissa),
        ),
        "largest ^ 2, all": (dict.fromkeys(every, (maximum, maximum)), 0.0),
        "largest ^ 2 - largest ^ 2": (
            {0: (maximum, maximum), 1: (-maximum, maximum)},
            0.0,
        ),
        "largest ^ 2": ({0: (maximum, maximum)}, 0.0),
    }
    if not operand.finite_top:
        cases |= {
            "inf": ({0: (inf, 1.0)}, 0.0),
            "inf * 0": ({0: (inf, 0.0)}, 0.0),
            "inf - inf": ({0: (inf, 1.0), 1: (-inf, 1.0)}, 0.0),
            "inf, c -inf": ({0: (inf, 1.0)}, -inf),
        }
    exponent = math.frexp(ulp)[1] - 1
    for steps in (0.5, 0.75, 1.0):
        shift = exponent - 1 if steps < 1 else exponent
        try:
            left, right = prober.power(shift, 1.5 if steps == 0.75 else 1.0)
            cases[f"c largest + {steps} ulp"] = ({0: (left, right)}, largest)
        except ValueError:
            continue
    got = prober.bits(list(cases.values()))
    prober.found["bits"] = {
        name: f"{bits:0{result.bits // 4}x}"
        for name, bits in zip(cases, got, strict=True)
    }
    zero = got[list(cases).index("-0 everywhere")]
    prober.found["keeps_minus_zero"] = zero == 1 << result.bits - 1


PROBES = (nodes, blocks, fraction, cuts, rounding, floor, specials)


def model_of(unit: Unit, found: Mapping[str, Any]) -> Model:
    """The model that the findings amount to."""
    return Model(
        unit.operand,
        unit.result,
        tuple(map(tuple, found["blocks"])),
        found["joined"],
        found["fraction"],
        found["out_fraction"],
        found["out_rounding"],
        found["floor"],
        found["keeps_minus_zero"],
    )
