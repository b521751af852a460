"""One tap against one result: equal, within, suspect, wrong, NaN by class."""

from __future__ import annotations

import math

import pytest
import torch

from oracle.numerics import Numerics
from oracle.trace import Tap
from refmoe.compare import compare, distance, outside, unravel
from refmoe.verdict import Kind

IEEE = Numerics()
F64 = torch.float64
NAN, INF = math.nan, math.inf


def tap(
    value: list[float],
    worst: list[float] | None = None,
    likely: list[float] | None = None,
) -> Tap:
    def tensor(values: list[float] | None) -> torch.Tensor | None:
        return None if values is None else torch.tensor(values, dtype=F64)

    made = tensor(value)
    assert made is not None
    return Tap(made, tensor(worst), tensor(likely), 1e-9)


def test_compare_bit_equal_needs_every_element() -> None:
    got = torch.tensor([1.0, -2.0])
    verdict = compare("out", tap([1.0, -2.0], [0.5, 0.5]), got, IEEE)
    assert (verdict.kind, verdict.ratio, verdict.median) == (Kind.BIT_EQUAL, 0.0, 0.0)


def test_compare_zeros_of_either_sign_are_equal() -> None:
    got = torch.tensor([0.0, -0.0])
    assert compare("out", tap([-0.0, 0.0]), got, IEEE).kind is Kind.BIT_EQUAL


def test_compare_signs_of_zeros_count_where_declared_and_certain() -> None:
    certain, open_ = tap([-0.0, 1.0]), tap([-0.0, 1.0], [1e-3, 1e-3])
    minus, plus = torch.tensor([-0.0, 1.0]), torch.tensor([0.0, 1.0])
    assert compare("y", certain, plus, IEEE).kind is Kind.BIT_EQUAL
    for want, got, kind in (
        (certain, minus, Kind.BIT_EQUAL), (certain, plus, Kind.WRONG),
        (open_, plus, Kind.BIT_EQUAL),
    ):  # fmt: skip
        assert compare("y", want, got, IEEE, signed_zeros=True).kind is kind


def test_compare_nan_is_nan_whatever_its_bits() -> None:
    for bits in (0x7FC00000, -0x3FFFFF, 0x7F800001):
        got = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
        assert compare("y", tap([NAN]), got, IEEE).kind is Kind.BIT_EQUAL
        assert compare("y", tap([INF]), got, IEEE).kind is Kind.WRONG


def test_compare_suspect_says_how_likely_it_is() -> None:
    whole = tap([8.0], [2.0], [1.0])
    suspect = compare("y", whole, torch.tensor([9.5]), IEEE)
    assert (suspect.kind, suspect.probability) == (Kind.SUSPECT, 1e-9)
    assert compare("y", whole, torch.tensor([8.5]), IEEE).probability == 1e-9
    assert compare("y", tap([8.0]), torch.tensor([8.0]), IEEE).probability is None


def test_compare_within_suspect_and_wrong_by_the_bounds() -> None:
    whole = tap([8.0, 8.0], [2.0, 2.0], [1.0, 1.0])
    for error, kind, ratio in (
        (0.5, Kind.WITHIN, 0.25), (1.0, Kind.WITHIN, 0.5), (1.5, Kind.SUSPECT, 0.75),
        (2.0, Kind.SUSPECT, 1.0), (2.5, Kind.WRONG, 1.25),
    ):  # fmt: skip
        verdict = compare("out", whole, torch.tensor([8.0, 8.0 + error]), IEEE)
        assert (verdict.kind, verdict.ratio) == (kind, ratio)
        assert verdict.index == (1,)
        assert (verdict.got, verdict.low, verdict.high) == (8.0 + error, 6.0, 10.0)


def test_compare_without_a_statistical_bound_nothing_is_suspect() -> None:
    verdict = compare("out", tap([8.0], [2.0]), torch.tensor([10.0]), IEEE)
    assert verdict.kind is Kind.WITHIN


def test_compare_exact_tap_admits_no_error() -> None:
    verdict = compare("out", tap([1.0]), torch.tensor([1.0 + 2**-23]), IEEE)
    assert (verdict.kind, verdict.ratio) == (Kind.WRONG, 2.0)
    assert verdict.low == verdict.high == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("value", [1.0, 1.5, 3.0, 0.0, -1024.0, 2.0**-14, 2.0**-20])
def test_compare_counts_half_ulps_where_a_value_is_exact(
    dtype: torch.dtype, value: float
) -> None:
    """Away from zero the next value of the type is two half ulps off."""
    here = torch.tensor([value], dtype=dtype)
    far = torch.nextafter(here.float(), torch.tensor([math.copysign(INF, value)]))
    got = here.clone()
    integer = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    got.view(integer).add_(1)
    assert got.float().abs() >= far.abs()
    verdict = compare("out", tap([value]), got, IEEE)
    assert (verdict.kind, verdict.ratio) == (Kind.WRONG, 2.0)


def test_compare_rounds_to_the_type_of_the_result() -> None:
    """1 + 2^-9 is a tie in bf16: exactly, even wins; with a radius, both neighbours."""
    value = 1.0 + 2.0**-8
    below, above = torch.tensor([1.0, 1.0 + 2.0**-7]).bfloat16()
    assert compare("out", tap([value]), below[None], IEEE).kind is Kind.BIT_EQUAL
    assert compare("out", tap([value]), above[None], IEEE).kind is Kind.WRONG
    blurred = tap([value], [1e-9])
    assert compare("out", blurred, above[None], IEEE).kind is Kind.WITHIN
    assert compare("out", tap([1.1], [1e-9]), above[None], IEEE).kind is Kind.WRONG


CLASSES = [
    (NAN, NAN, Kind.BIT_EQUAL), (INF, INF, Kind.BIT_EQUAL),
    (-INF, -INF, Kind.BIT_EQUAL),
    (NAN, 0.0, Kind.WRONG), (0.0, NAN, Kind.WRONG), (INF, -INF, Kind.WRONG),
    (INF, 3e38, Kind.WRONG), (3e38, INF, Kind.WRONG), (INF, NAN, Kind.WRONG),
    (NAN, INF, Kind.WRONG),
]  # fmt: skip


@pytest.mark.parametrize("value, got, kind", CLASSES)
def test_compare_nan_and_infinity_by_class(
    value: float, got: float, kind: Kind
) -> None:
    for worst in (None, [0.0], [1e3]):
        radius = worst if math.isfinite(value) else None
        verdict = compare("out", tap([value], radius), torch.tensor([got]), IEEE)
        assert verdict.kind is kind
        if kind is Kind.WRONG:
            assert verdict.ratio == INF


def test_compare_infinite_radius_admits_anything() -> None:
    for got in (0.0, INF, -1.0):
        verdict = compare("out", tap([3e38], [INF]), torch.tensor([got]), IEEE)
        assert not verdict.kind.failed


def test_compare_integers_must_be_equal() -> None:
    want = Tap(torch.tensor([[1, 2], [3, 4]]))
    same = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    assert compare("rows", want, same, IEEE).kind is Kind.BIT_EQUAL
    verdict = compare("rows", want, torch.tensor([[1, 2], [0, 9]]), IEEE)
    assert (verdict.kind, verdict.index, verdict.got, verdict.low) == (
        Kind.WRONG, (1, 0), 0, 3
    )  # fmt: skip
    assert verdict.detail == "2 of 4 elements differ"


def test_compare_empty_results_are_bit_equal() -> None:
    empty = Tap(torch.zeros(0, 4, dtype=F64))
    assert compare("out", empty, torch.zeros(0, 4), IEEE).kind is Kind.BIT_EQUAL
    none = Tap(torch.zeros(0, dtype=torch.int64))
    assert compare("rows", none, torch.zeros(0).long(), IEEE).kind is Kind.BIT_EQUAL


def test_compare_median_is_over_all_elements() -> None:
    verdict = compare(
        "out", tap([0.0] * 5, [4.0] * 5), torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]), IEEE
    )
    assert (verdict.median, verdict.ratio) == (0.5, 1.0)


def test_outside_names_the_elements() -> None:
    whole = Tap(torch.zeros(3, 2, dtype=F64), torch.ones(3, 2, dtype=F64))
    got = torch.tensor([[0.0, 1.0], [0.0, 2.0], [math.nan, 0.0]])
    assert outside(whole, got, IEEE).nonzero().tolist() == [[1, 1], [2, 0]]


def test_distance_and_unravel() -> None:
    got = torch.tensor([1.0, NAN, INF], dtype=F64)
    value = torch.tensor([3.0, NAN, 1.0], dtype=F64)
    assert distance(got, value).tolist() == [2.0, 0.0, INF]
    assert [unravel(n, (2, 3)) for n in (0, 4, 5)] == [(0, 0), (1, 1), (1, 2)]
