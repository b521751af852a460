"""The two oracles emulate every matrix unit alike, and the bounds hold both."""

import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import bounds, formats
from oracle.accumulators import accumulate
from oracle.numerics import ACCUMULATORS, Numerics
from oracle.scalar.accumulate import Product, chain
from oracle.scalar.elements import decode, element

#: What each unit multiplies; units of scaled operands take scales too.
FORMATS = {
    "fp64": "bf16", "ffma": "bf16", "hmma_volta": "fp16", "hmma_ampere": "bf16",
    "hmma_hopper": "bf16", "tcgen05_bf16": "bf16", "tcgen05_fp8": "e4m3",
    "tcgen05_fp4": "e2m1", "qmma_ada": "e5m2", "qgmma_hopper": "e4m3",
    "qgmma_hopper_promoted": "e4m3", "bf16": "bf16", "fp16": "e4m3", "int32": "int8",
}  # fmt: skip
SCALED = {"tcgen05_fp8": 32, "tcgen05_fp4": 16}


def operands(name, seed, length):
    """Finite values of the unit's format: of all magnitudes, or of a few binades."""
    generator = random.Random(seed)
    form = element(name)
    if not form.exponent:
        return [float(generator.randint(-128, 127)) for _ in range(length)]
    middle = form.bias << form.mantissa
    spread = generator.choice([2, 3, 5]) << form.mantissa
    least, most = max(middle - spread, 0), min(middle + spread, form.last)
    if form.last < 128 and generator.random() < 0.3:
        least = 0
    signs = generator.choice([[1], [1, -1]])
    return [
        generator.choice(signs) * float(decode(generator.randint(least, most), name))
        for _ in range(length)
    ]


@pytest.mark.parametrize("name", FORMATS)
@settings(derandomize=True, max_examples=12)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 150))
def test_scalar_chains_agree(name, seed, length):
    unit, form = ACCUMULATORS[name], FORMATS[name]
    block = SCALED.get(name)
    if block is not None:
        length = -(-length // block) * block
    a, b = operands(form, seed, length), operands(form, seed + 1, length)
    scales = [[1.0] * length] * 2
    tensors = None
    if block is not None:
        generator = random.Random(seed + 2)
        blocks = [
            [2.0 ** generator.randint(-6, 6) for _ in range(length // block)]
            for _ in "ab"
        ]
        tensors = tuple(torch.tensor([s], dtype=torch.float64) for s in blocks)
        scales = [[s for s in row for _ in range(block)] for row in blocks]
        if unit.group > 1:
            # A group of nothing but zeros has no exponent to agree on.
            a = [x or 1.0 for x in a]
            b = [x or 1.0 for x in b]
    least = formats.get(form).minimum_exponent if element(form).exponent else 0
    rows = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
    got = accumulate(*rows, unit, formats=(form, form), scales=tensors)
    products = [
        Product(p, q, s, t, (least, least))
        for p, q, s, t in zip(a, b, *scales, strict=True)
    ]
    assert Fraction(float(got)) == chain(products, unit)


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in SCALED])
@settings(derandomize=True, max_examples=6)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 150))
def test_scalar_chains_lie_within_the_bounds(name, seed, length):
    """What a unit returns is one of the results that declaring it admits."""
    form = FORMATS[name]
    a, b = operands(form, seed, length), operands(form, seed + 1, length)
    least = formats.get(form).minimum_exponent if element(form).exponent else 0
    pairs = zip(a, b, strict=True)
    products = [Product(p, q, least=(least, least)) for p, q in pairs]
    got = chain(products, ACCUMULATORS[name])
    x, w = (bounds.exactly(torch.tensor([v], dtype=torch.float64)) for v in (a, b))
    tap = bounds.matmul(x, w, Numerics(accumulate=name))
    radius = 0 if tap.worst is None else Fraction(float(tap.worst))
    assert abs(got - Fraction(float(tap.value))) <= radius
