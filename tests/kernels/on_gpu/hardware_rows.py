"""Dot products of a measurement again: operands, bits of an instruction, exact sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from oracle.scalar import elements

from .hardware_operands import random
from .hardware_probes import Prober
from .hardware_results import below_a_product, special_cases
from .hardware_units import Modelled, Unit

#: x, y, c and the result, as codes.
Row = tuple[list[int], list[int], int, int]
#: Dot products of each kind that become vectors.
SAMPLES = 20


def signed(code: int, bits: int) -> int:
    """Two's complement."""
    return code - (code >> bits - 1 << bits)


def exact_sum(unit: Unit, x: list[int], y: list[int], c: int) -> int:
    """The code nearest to the exact c + x y; NaN is all ones."""
    if unit.operand == "s8":
        pairs = zip(x, y, strict=True)
        total = sum(signed(a, 8) * signed(b, 8) for a, b in pairs)
        return total + c & 0xFFFFFFFF
    terms: list[Fraction | float] = [elements.decode(c, unit.result)]
    for a, b in zip(x, y, strict=True):
        left, right = _value(a, unit.operand), _value(b, unit.operand)
        both = isinstance(left, Fraction) and isinstance(right, Fraction)
        terms.append(left * right if both else float(left) * float(right))
    special = [t for t in terms if isinstance(t, float) and not math.isfinite(t)]
    total = sum(special) if special else sum(Fraction(t) for t in terms)
    code = elements.encode(total, unit.result, saturate=False)
    bits = 16 if unit.result == "fp16" else 32
    return (1 << bits - 1) - 1 if total != total else code


def _value(code: int, operand: str) -> Fraction | float:
    if operand == "tf32":
        return elements.decode(code & ~0x1FFF, "fp32")
    return elements.decode(code, operand)


def rows(unit: Unit, found: dict[str, Any], kinds: Sequence[str]) -> list[Row]:
    """x, y, c and the bits of an instruction: random samples, then what was probed."""
    made: list[Row] = []
    for kind in kinds:
        # Operands are a function of their number alone.
        given = random(unit.operand, unit.result, unit.depth, kind, SAMPLES)
        bits = [int(b, 16) for b in found["random"][kind]["bits"][:SAMPLES]]
        made += zip(*(t.tolist() for t in given), bits, strict=True)
    if "bits" not in found or "chained" in kinds:
        return made
    prober = Prober(Modelled({}), unit, {"blocks": found["blocks"]})
    cases = special_cases(prober)
    bits = [int(found["bits"][name], 16) for name in cases]
    last, listed = found.get("noticed below a product"), list(cases.values())
    if isinstance(last, int):
        listed += [below_a_product(prober, last), below_a_product(prober, last + 1)]
        bits += [0, 1]
    encoded = (t.tolist() for t in prober.encoded(listed))
    return [*made, *zip(*encoded, bits, strict=True)]
