"""Dot products designed to tell how a unit rounds its sums, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .hardware_model import FLOATS, Model
from .hardware_operands import value
from .hardware_probes import Case, Factors, Prober, blocks, cuts, fraction, nodes
from .hardware_units import Unit


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
    one = prober.found["blocks"][0][0]
    result = FLOATS[prober.unit.result]
    quantum = result.least - result.mantissa
    found = prober.found
    if found["out_rounding"] == "even":
        # Rounding to nearest hides what lies so far below.
        found["floor"] = -(1 << 12)
        return

    def noticed(case: Callable[[int], Case]) -> int | str | None:
        """The largest p for which 2^-p less than the least subnormal is noticed."""
        last = None
        for p in range(1 - quantum, 320):
            try:
                made = case(p)
            except ValueError as error:
                return str(error) if last is None else 1000 + last
            if prober.values([made])[0] != 0.0:
                return last
            last = p
        return last

    def below_c(p: int) -> Case:
        left, right = prober.power(-p)
        return {one: (-left, right)}, math.ldexp(1.0, quantum)

    found["noticed below c"] = noticed(below_c)
    found["noticed below a product"] = noticed(lambda p: below_a_product(prober, p))
    below = found["noticed below a product"]
    known = isinstance(below, int) and below < 1000
    found["floor"] = found["fraction"] - below if known else -(1 << 12)


def below_a_product(prober: Prober, p: int) -> Case:
    """The least subnormal as a product, and 2^-p less."""
    result = FLOATS[prober.unit.result]
    left, right = prober.power(-p)
    one, two = prober.found["blocks"][0][:2]
    return {one: prober.power(result.least - result.mantissa), two: (-left, right)}, 0.0


def special_cases(prober: Prober) -> dict[str, Case]:
    """Inf, NaN, zeros, subnormals and overflow."""
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
    return cases


def specials(prober: Prober) -> None:
    """The bits of special cases."""
    cases, digits = special_cases(prober), FLOATS[prober.unit.result].bits // 4
    got = dict(zip(cases, prober.bits(list(cases.values())), strict=True))
    prober.found["bits"] = {name: f"{bits:0{digits}x}" for name, bits in got.items()}
    minus = 1 << 4 * digits - 1
    prober.found["keeps_minus_zero"] = got["-0 everywhere"] == minus


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
