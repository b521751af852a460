"""GEMM bounds against every legitimate implementation, on data that strain them."""

from __future__ import annotations

import math
from zlib import crc32

import pytest
import torch

from oracle import bounds
from oracle.accumulators import accumulate
from oracle.bounds.accumulation import FAMILY, dot_error
from oracle.formats import get, round_to
from oracle.numerics import ACCUMULATORS, Numerics
from oracle.trace import Tap
from tests.oracle import soundness
from tests.oracle.simulators import KINDS, Simulator, data, simulators

SIMULATORS = {simulator.name: simulator for simulator in simulators()}
#: Truncating units, but those that sum groups exactly or restart before they drift.
TRUNCATING = [
    name
    for name, unit in ACCUMULATORS.items()
    if unit.biased and unit.group == 1 and not unit.promote
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predicted(simulator: Simulator, x: torch.Tensor, w: torch.Tensor) -> Tap:
    return bounds.matmul(simulator.tap(x), simulator.tap(w), simulator.numerics)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SIMULATORS)
def test_matmul_bounds_hold(name, kind, record_property):
    simulator, source = SIMULATORS[name], generator(crc32(f"{name} {kind}".encode()))
    x, w = data(kind, 8, 9, 192, simulator.operands, source)
    tap = predicted(simulator, x, w)
    error = (simulator.run(x, w, source) - tap.value).abs()
    # Where sums may overflow, anything goes.
    error = torch.where(tap.worst.isinf(), 0.0, error)
    assert (error <= tap.worst).all()
    ratio = (error / tap.worst).nan_to_num(nan=0.0)
    record_property("median", float(ratio.median()))
    record_property("largest", float(ratio.max()))
    if tap.likely is not None:
        assert tap.probability == FAMILY
        assert simulator.numerics.units[0].rounding == "nearest"
        assert (tap.likely <= tap.worst).all()
        assert (error <= tap.likely).all()


@pytest.mark.parametrize("name", TRUNCATING)
def test_matmul_worst_is_not_vacuous_for_one_sign(name):
    """Same-sign sums drift: each of the T cuts of a sum that grows to S loses half an
    ulp on average, an ulp being at least 2^-Fout / 2 of it: T 2^-Fout S / 8 in all, of
    the bound's T (n 2^-F + 2^-Fout) S."""
    unit = ACCUMULATORS[name]
    simulator = next(s for s in simulators() if s.name == name)
    x, w = data("same_sign", 16, 16, 1024, simulator.operands, generator())
    tap = predicted(simulator, x, w)
    cut, kept = unit.terms * 2.0**-unit.fraction, 2.0**-unit.out_fraction
    error = (simulator.run(x, w, generator()) - tap.value).abs()
    largest = float((error / tap.worst).max())
    if name == "tcgen05_fp8":
        # 25 bits hold sums of E5M2 products almost exactly.
        assert largest > 0
    else:
        assert largest >= kept / 8 / (cut + kept)


@pytest.mark.parametrize("name", ["hmma_volta", "hmma_ampere", "hmma_hopper"])
def test_matmul_worst_is_attained_by_truncation(name):
    """After a 1, every product just below 2^-F is lost whole: n 2^-F of every step."""
    unit, depth = ACCUMULATORS[name], 1024
    x = torch.full((1, depth), 2.0**-unit.fraction * (1 - 2.0**-8), dtype=torch.float64)
    w = torch.ones(1, depth, dtype=torch.float64)
    x[0, 0] = 1.0
    tap = bounds.matmul(Tap(x), Tap(w), Numerics(accumulate=name))
    error = float(tap.value - accumulate(x, w, unit))
    cut = unit.terms * 2.0**-unit.fraction
    share = cut / (cut + 2.0**-unit.out_fraction)
    assert share * 0.95 <= error / float(tap.worst) <= 1.0


def test_matmul_worst_is_attained_by_stagnation_which_likely_does_not_cover():
    """1 + 2^-24 rounds to 1: 4095 terms are lost, K u S. Such sums are no noise."""
    x = torch.full((1, 4096), 2.0**-24, dtype=torch.float64)
    x[0, 0] = 1.0
    w = torch.ones(1, 4096, dtype=torch.float64)
    tap = bounds.matmul(Tap(x), Tap(w), Numerics(accumulate="ffma"))
    error = float((tap.value - accumulate(x, w, ACCUMULATORS["ffma"])).abs())
    assert 0.95 <= error / float(tap.worst) <= 1.0
    assert tap.likely is not None
    assert error > float(tap.likely)


def test_matmul_likely_is_far_below_worst_where_rounding_is_to_nearest():
    error = dot_error(Numerics(accumulate="ffma"), 4096, 2**20)
    spread = math.sqrt(2 * math.log(2 * 2**20 / FAMILY))
    # K u against lambda sqrt(K) u.
    assert error.worst / error.likely == pytest.approx(
        math.sqrt(4096) / spread, rel=0.01
    )


def test_matmul_fp32_class_covers_each_of_its_units():
    largest = dot_error(Numerics(), 2880, 1)
    for name in ("ffma", "hmma_volta", "hmma_ampere", "hmma_hopper", "tcgen05_bf16"):
        alone = dot_error(Numerics(accumulate=name), 2880, 1)
        assert alone.worst <= largest.worst
        # Truncation drifts: no statistics, for the class neither.
        assert (alone.likely is None) is (name != "ffma")
    assert largest.likely is None


@pytest.mark.parametrize(
    "name, depth, expected",
    # formula (1 + n 2^-F + 2^-Fout)^T - 1, worked out by hand for T steps.
    [
        ("hmma_hopper", 4096, 1.53e-4),
        ("hmma_ampere", 4096, 3.06e-4),
        ("qgmma_hopper", 4096, 0.67),
        ("qgmma_hopper_promoted", 4096, 1.62e-2),
        ("tcgen05_fp8", 2880, 9.7e-5),
        ("ffma", 7168, 4.3e-4),
    ],
)
def test_matmul_factor_is_the_published_formula(name, depth, expected):
    worst = dot_error(Numerics(accumulate=name), depth, 1).worst
    assert worst == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", ["normal", "same_sign", "cancelling"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ["ffma", "hmma_hopper", "qgmma_hopper"])
def test_matmul_bias_starts_the_sum_or_ends_it(name, first, kind):
    simulator, source = SIMULATORS[name], generator(3)
    x, w = data(kind, 8, 9, 256, simulator.operands, source)
    bias = round_to(torch.randn(9, generator=source, dtype=torch.float64) * 30, "fp32")
    formats = (simulator.operands,) * 2
    start = bias.expand(8, 9) if first else None
    got = accumulate(x, w, ACCUMULATORS[name], formats=formats, start=start)
    if not first:
        got = round_to(got + bias, "fp32")
    tap = bounds.matmul(
        simulator.tap(x), simulator.tap(w), simulator.numerics, bias=bias
    )
    assert ((got - tap.value).abs() <= tap.worst).all()


def test_matmul_rounds_the_product_before_its_bias_where_declared():
    source = generator(4)
    x, w = data("normal", 16, 16, 128, "bf16", source)
    bias = round_to(torch.randn(16, generator=source, dtype=torch.float64), "bf16")
    product = round_to(accumulate(x, w, ACCUMULATORS["ffma"]), "bf16")
    got = round_to(product + bias, "bf16")
    numerics = Numerics(accumulate="ffma", gemm="bf16")
    tap = bounds.matmul(Tap(x), Tap(w), numerics, bias=bias)
    tap = bounds.rounded(tap, "bf16", numerics)
    assert ((got - tap.value).abs() <= tap.worst).all()
    undeclared = bounds.matmul(Tap(x), Tap(w), Numerics(accumulate="ffma"), bias=bias)
    undeclared = bounds.rounded(undeclared, "bf16", numerics)
    assert ((got - undeclared.value).abs() > undeclared.worst).any()


@pytest.mark.parametrize("name", ["ffma", "hmma_hopper"])
def test_matmul_carries_the_radii_of_both_operands(name):
    source = generator(5)
    x, w = data("normal", 8, 8, 200, "bf16", source)
    x_radius = x.abs() * 2.0**-9 * torch.rand(x.shape, generator=source).double()
    w_radius = w.abs() * 2.0**-7 * torch.rand(w.shape, generator=source).double()
    numerics = Numerics(accumulate=name)
    tap = bounds.matmul(Tap(x, x_radius), Tap(w, w_radius, w_radius / 2), numerics)
    only_x = bounds.matmul(Tap(x, x_radius), Tap(w), numerics)
    assert (only_x.worst < tap.worst).all()
    for _ in range(8):
        signs = [torch.randn(r.shape, generator=source).sign() for r in (x, w)]
        moved_x, moved_w = x + signs[0] * x_radius, w + signs[1] * w_radius
        assert ((moved_x @ moved_w.T - tap.value).abs() <= tap.worst).all()
    # All deviations in step with the products add up to S.
    step = (x + x.sign() * x_radius) @ torch.ones_like(w[:1]).T
    ones = bounds.matmul(Tap(x, x_radius), Tap(torch.ones_like(w[:1])), numerics)
    assert ((step - ones.value).abs() <= ones.worst).all()
    assert (tap.likely <= tap.worst).all()


@pytest.mark.parametrize("kind", ["normal", "same_sign", "heavy", "sparse"])
def test_matmul_blocks_scaled_outside_the_unit(kind):
    """FP8 blocks of 128 with fp32 scales, as DeepSeek-V3's GEMM promotes them."""
    source = generator(6)
    codes_x, codes_w = data(kind, 8, 8, 512, "e4m3", source)
    scale_x, scale_w = (
        round_to(torch.rand(8, 4, generator=source, dtype=torch.float64) + 0.1, "fp32")
        for _ in range(2)
    )
    unit = ACCUMULATORS["qgmma_hopper"]
    total = torch.zeros(8, 8, dtype=torch.float64)
    for b in range(4):
        run = slice(128 * b, 128 * b + 128)
        part = accumulate(codes_x[:, run], codes_w[:, run], unit, formats=("e4m3",) * 2)
        part = round_to(part * scale_x[:, b, None], "fp32")
        part = round_to(part * scale_w[:, b], "fp32")
        total = round_to(total + part, "fp32")
    wide_x, wide_w = (s.repeat_interleave(128, 1) for s in (scale_x, scale_w))
    least = get("e4m3").least_normal
    tap = bounds.matmul(
        Tap(codes_x * wide_x, least_normal=least * float(scale_x.max())),
        Tap(codes_w * wide_w, least_normal=least * float(scale_w.max())),
        Numerics(accumulate="qgmma_hopper_promoted"), blocks=4,
    )  # fmt: skip
    assert ((total - tap.value).abs() <= tap.worst).all()


@pytest.mark.parametrize(
    "name, element, block",
    [
        ("tcgen05_fp8", "e4m3", 32),
        ("tcgen05_fp8", "e2m1", 32),
        ("tcgen05_fp4", "e2m1", 32),
    ],
)
def test_matmul_blocks_scaled_inside_the_unit(name, element, block):
    source = generator(7)
    for kind in KINDS:
        x, w = data(kind, 8, 8, 512, element, source)
        scales = [
            torch.exp2(
                torch.randint(-9, 9, (8, 512 // block), generator=source).double()
            )
            for _ in range(2)
        ]
        got = accumulate(
            x,
            w,
            ACCUMULATORS[name],
            formats=(element,) * 2,
            scales=(scales[0], scales[1]),
        )
        wide = [s.repeat_interleave(block, 1) for s in scales]
        least = get(element).least_normal
        tap = bounds.matmul(
            Tap(x * wide[0], least_normal=least * float(scales[0].max())),
            Tap(w * wide[1], least_normal=least * float(scales[1].max())),
            Numerics(accumulate=name),
        )
        assert ((got - tap.value).abs() <= tap.worst).all(), kind


def test_matmul_integers_round_once_and_at_their_scales():
    source = generator(8)
    x, w = (
        torch.randint(-127, 128, (16, 4096), generator=source).double()
        for _ in range(2)
    )
    scale_x, scale_w = (
        round_to(torch.rand(16, 1, generator=source, dtype=torch.float64), "fp32")
        for _ in range(2)
    )
    got = round_to(accumulate(x, w, ACCUMULATORS["int32"]) * scale_x, "fp32")
    got = round_to(got * scale_w.T, "fp32")
    tap = bounds.matmul(
        Tap(x * scale_x), Tap(w * scale_w), Numerics(accumulate="int32")
    )
    error = (got - tap.value).abs()
    assert (error <= tap.worst).all()
    assert float((error / tap.worst).max()) > 0.02


def test_matmul_needs_the_least_normal_value_of_fp8_operands():
    """A subnormal times a large weight sets the alignment; 31 products lose a bit."""
    x, w = torch.zeros(2, 1, 32, dtype=torch.float64)
    x[0, 0], w[0, 0] = 2.0**-9, 256.0
    x[0, 1:], w[0, 1:] = 1.125, 1.125 * 2.0**-6
    unit, numerics = ACCUMULATORS["qgmma_hopper"], Numerics(accumulate="qgmma_hopper")
    got = accumulate(x, w, unit, formats=("e4m3", "e4m3"))
    least = get("e4m3").least_normal
    told = bounds.matmul(
        Tap(x, least_normal=least), Tap(w, least_normal=least), numerics
    )
    untold = bounds.matmul(Tap(x), Tap(w), numerics)
    assert float(untold.worst) < float((got - told.value).abs()) <= float(told.worst)


def test_matmul_flushed_operands_and_results_are_covered():
    source = generator(9)
    numerics = Numerics(accumulate="ffma", subnormals="flush")
    for scale in (2.0**-127, 2.0**-64):
        x, w = (t * scale for t in data("normal", 8, 8, 64, "fp32", source))
        x, w = round_to(x, "fp32"), round_to(w, "fp32")
        flushed_x, flushed_w = (round_to(t, "fp32", subnormals="flush") for t in (x, w))
        total = torch.zeros(8, 8, dtype=torch.float64)
        for k in range(64):
            term = round_to(
                flushed_x[:, k, None] * flushed_w[:, k], "fp32", subnormals="flush"
            )
            total = round_to(total + term, "fp32", subnormals="flush")
        tap = bounds.matmul(Tap(x), Tap(w), numerics)
        assert ((total - tap.value).abs() <= tap.worst).all()


def test_matmul_nonfinite_values_are_certain_and_overflow_is_open():
    x = torch.tensor(
        [[1.0, 2.0], [math.inf, 1.0], [math.nan, 1.0], [2.0**127, 2.0**127]]
    )
    x = torch.cat([x, x[3:] / 4])
    w = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    tap = bounds.matmul(bounds.exactly(x), bounds.exactly(w), Numerics())
    assert tap.value[1].tolist() == [math.inf, math.inf]
    assert tap.value[2].isnan().all()
    assert tap.worst[:3].eq(0).all()
    assert tap.worst[3].tolist() == [math.inf, math.inf]
    # A quarter of that overflows in no order.
    assert tap.worst[4].tolist() == [0.0, 0.0]


def test_matmul_unbounded_operands_stay_unbounded_whatever_the_weight():
    x = Tap(torch.ones(1, 2).double(), torch.tensor([[math.inf, 0.0]]).double())
    w = bounds.exactly(torch.tensor([[0.0, 1.0]]))
    assert bounds.matmul(x, w, Numerics()).worst.tolist() == [[math.inf]]


@pytest.mark.parametrize("shape", [(0, 4, 8), (3, 0, 8), (3, 4, 0)])
def test_matmul_of_nothing_is_exact(shape):
    rows, width, depth = shape
    x, w = torch.ones(rows, depth).double(), torch.ones(width, depth).double()
    for tap in (
        bounds.matmul(Tap(x), Tap(w), Numerics()),
        bounds.matmul(Tap(x, torch.zeros_like(x)), Tap(w), Numerics()),
    ):
        assert tap.value.shape == (rows, width)
        assert tap.exact


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_matmul_bounds_do_not_depend_on_torchs_matmul_precision(precision):
    x, w = data("same_sign", 8, 8, 512, "fp32", generator(10))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        tap = bounds.matmul(Tap(x), Tap(w), Numerics(accumulate="ffma"))
    finally:
        torch.set_float32_matmul_precision(before)
    size = x.abs() @ w.abs().T
    factor = dot_error(Numerics(accumulate="ffma"), 512, 64).worst
    assert (tap.worst >= factor * size).all()
    assert (tap.worst <= 1.05 * factor * size).all()


@pytest.mark.long
def test_matmul_bounds_hold_for_millions_of_outputs():
    rows = soundness.run(4e6, processes=2)
    assert len(rows) == len(SIMULATORS) * len(KINDS)
    assert not [row for row in rows if not row.sound]


def test_soundness_counts_what_it_sees():
    rows = soundness.run(24 * 64 * 64, processes=1)
    assert sum(row.elements for row in rows) == 24 * 64 * 64
    assert all(row.sound and row.worst > 0 for row in rows if row.kind == "normal")
    broken = soundness.Row("mine", "normal", 4, 1, exceeded=1)
    assert not broken.sound


def test_matmul_infinity_is_sure_only_where_nothing_overflows() -> None:
    """-Inf meets +Inf where the finite products overflow first: NaN in some orders."""
    large = 2.0**127
    x = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    w = torch.tensor(
        [
            [-math.inf, large, large],
            [-math.inf, 1.0, large / 2],
            [math.nan, large, large],
        ],
        dtype=torch.float64,
    )
    tap = bounds.matmul(Tap(x), Tap(w), Numerics())
    assert tap.worst is not None
    assert tap.worst.tolist() == [[math.inf, 0.0, 0.0]]
    assert tap.value[0, :2].tolist() == [-math.inf, -math.inf]
