"""The exact interval of a rate, against fractions and published values."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from refmoe.score.interval import at_most, interval


@pytest.mark.parametrize("trials", [1, 7, 40])
@pytest.mark.parametrize("rate", [Fraction(1, 100), Fraction(1, 3), Fraction(9, 10)])
def test_interval_tail_is_the_binomial_sum(trials: int, rate: Fraction) -> None:
    """Catches a term left out at either end, or a sign in an exponent."""
    total = Fraction(0)
    for events in range(trials + 1):
        total += comb(trials, events) * rate**events * (1 - rate) ** (trials - events)
        assert at_most(events, trials, float(rate)) == pytest.approx(
            float(total), rel=1e-11
        )


def test_interval_has_published_ends() -> None:
    """Clopper and Pearson's 95 % limits, as printed in tables of the binomial."""
    assert interval(5, 10) == pytest.approx((0.1871, 0.8129), abs=5e-5)
    assert interval(1, 20) == pytest.approx((0.0013, 0.2487), abs=5e-5)
    assert interval(10, 10)[1] == 1.0


@pytest.mark.parametrize("trials", [1, 100, 100_000])
def test_interval_of_nothing_is_the_closed_formula(trials: int) -> None:
    low, high = interval(0, trials)
    assert low == 0.0
    assert high == pytest.approx(1.0 - 0.025 ** (1.0 / trials), rel=1e-9)


def test_interval_of_nothing_is_the_rule_of_three_from_one_side() -> None:
    high = interval(0, 100_000, 0.1)[1]
    assert high * 100_000 == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize("events", [0, 1, 3, 20, 49, 50])
def test_interval_leaves_half_the_error_at_each_end(events: int) -> None:
    low, high = interval(events, 50, 0.1)
    assert low <= events / 50 <= high
    if events:
        assert 1.0 - at_most(events - 1, 50, low) == pytest.approx(0.05, rel=1e-6)
    if events < 50:
        assert at_most(events, 50, high) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(
    "events, trials, error", [(3, 2, 0.05), (0, 0, 0.05), (0, 1, 0.0)]
)
def test_interval_of_impossible_counts_is_refused(
    events: int, trials: int, error: float
) -> None:
    with pytest.raises(ValueError, match=f"{events} events of {trials} trials"):
        interval(events, trials, error)
