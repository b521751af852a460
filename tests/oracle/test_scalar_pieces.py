"""Layouts, product keys, matrix units and the whole layer of the second oracle."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchao.prototype.mx_formats.utils import to_blocked

from oracle.numerics import ACCUMULATORS
from oracle.scalar import layouts, omni
from oracle.scalar.accumulate import Product, chain, step, toward_zero
from oracle.scalar.experts import Expert
from oracle.scalar.interval import FLOAT64, precision
from oracle.scalar.moe import Weights, forward
from oracle.spec import Activation, Layer, Routing


@pytest.mark.parametrize(("rows", "columns"), [(128, 4), (130, 6), (300, 9)])
def test_scalar_offset_128x4_equals_torchao(rows, columns):
    generator = torch.Generator().manual_seed(rows)
    scales = torch.randint(1, 255, (rows, columns), generator=generator).to(torch.uint8)
    blocked = to_blocked(scales).flatten().tolist()
    for m in range(rows):
        for k in range(columns):
            offset = layouts.offset_128x4(m, k, columns)
            assert blocked[offset] == scales[m, k]
            assert layouts.position_128x4(offset, columns) == (m, k)


@pytest.mark.parametrize(
    ("offset", "rows"), [(layouts.offset_128x4, 128), (layouts.offset_8x4, 8)]
)
def test_scalar_offsets_fill_their_tiles_once(offset, rows):
    taken = {offset(m, k, 7) for m in range(2 * rows) for k in range(8)}
    assert taken == set(range(2 * rows * 8))


def test_scalar_nibbles_put_even_elements_low():
    assert layouts.pack_nibbles([1, 2, 15, 8]) == [0x21, 0x8F]
    assert layouts.unpack_nibbles([0x21, 0x8F]) == [1, 2, 15, 8]
    with pytest.raises(ValueError, match="3 codes do not fill bytes"):
        layouts.pack_nibbles([1, 2, 3])


def test_scalar_sm90_interleave_moves_every_bit_once():
    assert sorted(bit for bits in layouts.SM90_BITS for bit in bits) == list(range(32))
    # Bit i of the input carries binary digit d of i in run d: reading the runs at one
    # place of the output spells the i that went there.
    came = [0] * (16 * 32 * 8)
    for digit in range(12):
        rows = [
            [
                sum((i >> digit & 1) << i % 8 for i in range(first, first + 8))
                for first in range(line * 256, line * 256 + 256, 8)
            ]
            for line in range(16)
        ]
        flat = [byte for line in layouts.sm90_weights(rows) for byte in line]
        for i in range(len(came)):
            came[i] |= (flat[i // 8] >> i % 8 & 1) << digit
    assert sorted(came) == list(range(len(came)))
    places = {layouts.sm90_scale_position(r, k) for r in range(128) for k in range(8)}
    assert len(places) == 128 * 8
    with pytest.raises(ValueError, match="multiples of 16 rows"):
        layouts.sm90_weights([[0] * 32] * 8)


small = st.integers(-3, 3).map(float)


@given(st.lists(st.tuples(small, small), min_size=1, max_size=5))
def test_scalar_omni_route_equals_a_stable_sort(pairs):
    x, y = (list(axis) for axis in zip(*pairs, strict=True))
    k = len(x) ** 2
    scores, ids = omni.route(x, y, k)
    sums = (torch.tensor(x)[:, None] + torch.tensor(y)[None]).flatten()
    want = sums.sort(descending=True, stable=True)
    assert ids == want.indices.tolist()
    assert [float(s) for s in scores] == want.values.tolist()


def test_scalar_omni_rounding_the_sum_makes_ties():
    x, y = [256.0, 0.0], [1.0, 0.0]
    assert omni.route(x, y, 2)[1] == [0, 1]
    assert omni.route(x, [0.0, 1.0], 2)[1] == [1, 0]
    assert omni.route(x, [0.0, 1.0], 2, "bf16") == ([256, 256], [0, 1])
    with pytest.raises(ValueError, match="k=5 of 4 experts"):
        omni.route(x, y, 5)


def test_scalar_omni_backward_sums_per_row_and_column():
    d_x, d_y = omni.route_backward([1.0, 10.0, 100.0, 7.0], [0, 1, 3, -1], 2)
    assert (d_x, d_y) == ([11, 100], [1, 110])


def test_scalar_omni_experts_are_single_neurons():
    up, down = [[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [3.0, -1.0]]
    with precision(FLOAT64):
        got = omni.experts([2.0, 1.0], [1, -1, 0], [0.5, 9.0, 1.0], up, down)
    silu = 2 / (1 + math.exp(-2))
    for value, bounds in zip((silu / 2 * 3 + silu, silu - silu / 2), got, strict=True):
        assert value in bounds


HOPPER = ACCUMULATORS["qgmma_hopper"]


def products(a, b, **changes):
    return [Product(p, q, **changes) for p, q in zip(a, b, strict=True)]


def plus_one(*terms):
    """Products 1 * 1 and t * 1 for each term."""
    return products([1.0, *terms], [1.0] * (1 + len(terms)))


def test_scalar_step_cuts_terms_below_the_grid():
    """E4M3 on Hopper keeps 13 bits below the largest exponent, and cuts, not rounds."""
    below = 2.0**-14
    assert toward_zero(Fraction(-7, 2), 0) == -3
    assert step(plus_one(below), 0, HOPPER) == 1
    assert step(plus_one(-below), 0, HOPPER) == 1
    assert step(plus_one(2 * below), 0, HOPPER) == 1 + 2 * Fraction(below)
    assert step(plus_one(below), 0, ACCUMULATORS["ffma"]) == 1 + Fraction(below)
    assert step(products([0.0], [5.0]), 0, HOPPER) == 0


def test_scalar_step_takes_the_exponents_of_the_operands():
    """1.5 * 1.5 = 2.25 counts as exponent 0, and a subnormal as its format's least."""
    fine, square = 2.0**-13, Fraction(9, 4)
    assert step(products([1.5, fine], [1.5, 1.0]), 0, HOPPER) == square
    cut = step(products([1.5, fine, 4 * fine], [1.5, 1.0, 1.0]), 0, HOPPER)
    assert cut == square + 4 * Fraction(fine)
    tiny = ([2.0**-9, 2.0**-16], [1.0, 2.0**-6])
    free = step(products(*tiny), 0, HOPPER)
    held = step(products(*tiny, least=(-6, -6)), 0, HOPPER)
    assert free > held == Fraction(2.0**-9)


def test_scalar_step_aligns_groups_by_their_scales():
    """A group's products are summed exactly, however small beside its scale."""
    unit = ACCUMULATORS["tcgen05_fp4"]
    small = products([0.5] * 16, [0.5] * 16, scale_a=2.0**-30)
    large = products([6.0] * 16, [6.0] * 16)
    assert step([*large, *small], 0, unit) == 576
    assert step(small, 0, unit) == 4 * Fraction(2.0**-30)


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_scalar_chain_of_small_integers_is_exact(name):
    """Every partial sum is below 2**7 quanta, which the coarsest unit holds."""
    generator = random.Random(name)
    a, b = ([float(generator.randint(-1, 1)) for _ in range(200)] for _ in "ab")
    got = chain(products(a, b), ACCUMULATORS[name])
    assert got == sum(p * q for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["qgmma_hopper", "hmma_ampere", "hmma_hopper"])
def test_scalar_chain_stays_within_the_published_bound(name):
    """|acc - sum| <= ((1 + w)^steps - 1) S, w = n 2**-F + 2**-Fout."""
    unit = ACCUMULATORS[name]
    w = Fraction(unit.terms, 2**unit.fraction) + Fraction(1, 2**unit.out_fraction)
    generator = random.Random(0)
    for sign in (-1, 1):
        a = [Fraction(generator.randint(128, 255), 128) for _ in range(256)]
        b = [sign**i * Fraction(generator.randint(8, 15), 2**12) for i in range(256)]
        a[0] *= 2**15
        values = [p * q for p, q in zip(a, b, strict=True)]
        error = abs(chain(products(a, b), unit) - sum(values))
        assert error <= ((1 + w) ** (256 // unit.terms) - 1) * sum(map(abs, values))
        assert error > 0


def test_scalar_forward_routes_and_combines():
    """Two experts, identity activation, logits ln 3 apart: weights 3/4 and 1/4."""
    layer = Layer(1, 1, 2, 2, activation=Activation("identity"), dtype="fp64",
                  activations="fp64", routing=Routing())  # fmt: skip
    weights = Weights([Expert([[1.0]], [[1.0]]), Expert([[10.0]], [[1.0]])])
    with precision(FLOAT64):
        stages = forward([[4.0], [2.0]], [[math.log(3), 0.0]] * 2, layer, weights)
    assert [routed.ids for routed in stages.routed_to] == [[0, 1]] * 2
    assert 13 in stages.out[0][0]
    assert 6.5 in stages.out[1][0]
