"""Matrix units step by step, on vectors worked out by hand and in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from oracle import bounds
from oracle.accumulators import accumulate
from oracle.formats import get
from oracle.numerics import ACCUMULATORS, Accumulator, Numerics
from oracle.trace import Tap
from oracle.vectors import Vector, load

TRUNCATING = [u for u in ACCUMULATORS.values() if u.biased and u.group == 1]


def one_dot(x: list[float], w: list[float], unit: str, **options) -> float:
    rows = (
        torch.tensor([x], dtype=torch.float64),
        torch.tensor([w], dtype=torch.float64),
    )
    return float(accumulate(*rows, ACCUMULATORS[unit], **options))


@pytest.mark.parametrize(
    "unit, bits", [("hmma_volta", 23), ("hmma_ampere", 24), ("hmma_hopper", 25)]
)
def test_accumulate_keeps_the_fraction_bits_of_its_generation(unit, bits):
    """Fasi et al. 2021: 1 plus small terms in one step shows how far alignment goes."""
    kept, lost = 2.0**-bits, 2.0 ** -(bits + 1)
    # Four kept terms add up to 2^(2 - bits), which fp32 has from 2^-23 on.
    terms = [1.0, kept, kept, kept, kept][: 4 if unit == "hmma_volta" else 5]
    total = 1.0 + (len(terms) - 1) * kept
    fp32 = float(Fraction(int(total * 2**23), 2**23))
    assert one_dot(terms, [1.0] * len(terms), unit) == fp32
    assert one_dot([1.0, lost, lost, lost], [1.0] * 4, unit) == 1.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_accumulate_truncates_toward_zero_and_nearest_does_not(sign):
    """1.5 ulps above 1 in one step of Hopper: 1 ulp; to nearest even: 2 ulps."""
    x = [sign, sign * 2.0**-23, sign * 2.0**-24]
    assert one_dot(x, [1.0] * 3, "hmma_hopper") == sign * (1 + 2.0**-23)
    assert one_dot([sign * (1 + 2.0**-23), sign * 2.0**-24], [1.0] * 2, "ffma",
                   formats=("fp32", "fp32")) == sign * (1 + 2.0**-22)  # fmt: skip


def test_accumulate_aligns_products_by_the_exponents_of_their_operands():
    """1.5 * 1.5 counts as exponent 0, not 1: 2^-25 beside it survives."""
    x, w = [1.5, 2.0**-25, -1.5], [1.5, 1.0, 1.5]
    assert one_dot(x, w, "hmma_hopper") == 2.0**-25
    assert one_dot([1.5, 2.0**-25, -2.25], [1.5, 1.0, 1.0], "hmma_hopper") == 0.0


def test_accumulate_aligns_subnormal_operands_as_if_normal():
    small = 2.0**-9  # E4M3's least subnormal, aligned as 2^-6.
    operands = [small, small], [256.0, 2.0**-6 * 1.125]
    exact = small * 256 + small * 2.0**-6 * 1.125
    e4m3 = one_dot(*operands, "qgmma_hopper", formats=("e4m3", "e4m3"))
    assert e4m3 == small * 256 < exact
    assert one_dot(*operands, "tcgen05_fp8", formats=("e4m3", "e4m3")) == exact


def test_accumulate_starts_again_where_it_promotes():
    """FP8 chains of 128 each hold 14 bits; their sum is fp32."""
    x, w = [1.0] * 256, [128.0] + [1.0] * 127 + [2.0**-7] + [0.0] * 127
    assert one_dot(x, w, "qgmma_hopper", formats=("e4m3", "e4m3")) == 255.0
    promoted = one_dot(x, w, "qgmma_hopper_promoted", formats=("e4m3", "e4m3"))
    assert promoted == 255.0 + 2.0**-7


def test_accumulate_sums_fp4_groups_exactly():
    """2^-36 of the scale's exponent is below the cut, but a group sums before it."""
    x = torch.zeros(1, 64, dtype=torch.float64)
    x[0, :4] = torch.tensor([6.0, 0.5, -6.0, 0.5])
    ones = torch.ones(1, 64, dtype=torch.float64)
    scales = (
        torch.ones(1, 2, dtype=torch.float64),
        torch.ones(1, 2, dtype=torch.float64),
    )
    unit = ACCUMULATORS["tcgen05_fp4"]
    assert float(accumulate(x, ones, unit, formats=("e2m1",) * 2, scales=scales)) == 1.0
    # An empty group with a large scale still sets the alignment.
    far = torch.tensor([[2.0**-10, 2.0**27]], dtype=torch.float64)
    got = accumulate(x, ones, unit, formats=("e2m1",) * 2, scales=(far, scales[1]))
    assert float(got) == 0.0


def test_accumulate_integers_exactly_and_rounds_once():
    x, w = [127.0] * 2048, [127.0] * 2047 + [1.0]
    exact = 127 * 127 * 2047 + 127
    assert one_dot(x, w, "int32") == float(torch.tensor(float(exact)).float())


def in_fractions(
    x: list[float], w: list[float], unit: Accumulator, low: int
) -> Fraction:
    """The definition once more, in fractions: a step over all of x and w, from zero."""

    def exponent(value: Fraction, least: int) -> int:
        power = 0
        while abs(value) >= Fraction(2) ** (power + 1):
            power += 1
        while abs(value) < Fraction(2) ** power:
            power -= 1
        return max(power, least)

    pairs = [(Fraction(a), Fraction(b)) for a, b in zip(x, w, strict=True) if a and b]
    if not pairs:
        return Fraction(0)
    top = max(exponent(a, low) + exponent(b, low) for a, b in pairs)
    quantum = Fraction(2) ** (max(top, unit.minimum_exponent) - unit.fraction)
    total = sum((int(a * b / quantum) * quantum for a, b in pairs), Fraction(0))
    if not total:
        return total
    quantum = Fraction(2) ** (exponent(total, -126) - unit.out_fraction)
    return int(total / quantum) * quantum


@pytest.mark.parametrize("unit", TRUNCATING, ids=lambda unit: unit.name)
def test_accumulate_step_is_the_definition_in_fractions(unit):
    source, operands = (
        torch.Generator().manual_seed(0),
        "e4m3" if unit.fraction < 20 else "bf16",
    )
    low = get(operands).minimum_exponent
    for _ in range(20):
        x, w = (
            torch.randn(1, unit.terms, generator=source)
            * torch.exp2(torch.randint(-7, 6, (1, unit.terms), generator=source))
            for _ in range(2)
        )
        kind = torch.float8_e4m3fn if operands == "e4m3" else torch.bfloat16
        x, w = x.to(kind).double(), w.to(kind).double()
        got = float(accumulate(x, w, unit, formats=(operands, operands)))
        assert Fraction(got) == in_fractions(x[0].tolist(), w[0].tolist(), unit, low)


def test_accumulate_rounds_to_nearest_as_fractions_do():
    """Products far apart in exponent: a float64 sum alone would round twice."""
    tie = 1.0 + 2.0**-23
    x, w = [tie, 2.0**-24, 2.0**-90], [1.0, 1.0, 1.0]
    # To even: 1 + 2^-22; then 2^-90 changes nothing.
    assert one_dot(x, w, "ffma", formats=("fp32", "fp32")) == 1.0 + 2.0**-22
    start = torch.full((1, 1), 1.0, dtype=torch.float64)
    # 1 + 2^-24 (1 + 2^-60): just above the tie.
    got = one_dot([2.0**-24 * (1 + 2.0**-23)], [1 + 2.0**-23], "ffma",
                  formats=("fp32", "fp32"), start=start)  # fmt: skip
    assert got == 1.0 + 2.0**-23


def test_accumulate_rejects_operands_that_do_not_fit():
    x = torch.ones(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x \(2, 3\) and w \(3, 2\) must be \[R, K\]"):
        accumulate(x, x.T, ACCUMULATORS["ffma"])


@pytest.mark.parametrize("vector", load("accumulators"), ids=lambda vector: vector.id)
def test_accumulate_gives_the_recorded_bits_of_every_unit(vector: Vector):
    x, w = (vector.inputs[name].double()[None] for name in ("x", "w"))
    kind = vector.arguments["format"]
    expected = vector.expected["sum"]
    assert torch.equal((x @ w.T)[0].float(), expected)
    for name, peer in vector.peers.items():
        unit = ACCUMULATORS[name]
        got = accumulate(x, w, unit, formats=(kind, kind))
        assert torch.equal(got[0].float(), peer["sum"]), name
        least = get(kind).least_normal
        tap = bounds.matmul(
            Tap(x, least_normal=least), Tap(w, least_normal=least),
            Numerics(accumulate=name),
        )  # fmt: skip
        assert bool((got - tap.value).abs() <= tap.worst)
