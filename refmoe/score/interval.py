"""The exact confidence interval of a rate: Clopper and Pearson, 1934.

The upper end is the rate at which so few events, or fewer, have a chance of half the
error; the lower end mirrors it. Each is found by bisecting the binomial tail, summed in
logarithms: for no event of n it is 1 - (error / 2)^(1 / n).
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, fsum, lgamma, log, log1p

#: Halvings of [0, 1]: beyond them float64 has nothing left to halve.
_STEPS = 1100


def interval(events: int, trials: int, error: float = 0.05) -> tuple[float, float]:
    """The rates that `events` of `trials` do not contradict, at confidence 1 - error.

    >>> low, high = interval(0, 100_000)
    >>> low, round(high * 100_000, 2)
    (0.0, 3.69)

    Raises ValueError for more events than trials, no trial, or no error.
    """
    if not 0 <= events <= trials or trials < 1 or not 0.0 < error < 1.0:
        raise ValueError(
            f"interval: {events} events of {trials} trials with error {error}; want "
            "0 <= events <= trials, a trial at least, and an error between 0 and 1"
        )
    low, high = 0.0, 1.0
    if events > 0:
        low = _root(lambda p: 1.0 - at_most(events - 1, trials, p) < error / 2)
    if events < trials:
        high = _root(lambda p: at_most(events, trials, p) > error / 2)
    return low, high


def at_most(events: int, trials: int, rate: float) -> float:
    """The chance of so many events, or fewer, of independent trials: the binomial tail.

    >>> round(at_most(1, 2, 0.5), 12)
    0.75
    """
    if rate <= 0.0 or events >= trials:
        return 1.0
    if rate >= 1.0:
        return 0.0
    hit, miss, whole = log(rate), log1p(-rate), lgamma(trials + 1)
    return min(
        1.0,
        fsum(
            exp(
                whole - lgamma(k + 1) - lgamma(trials - k + 1)
                + k * hit + (trials - k) * miss
            )
            for k in range(events + 1)
        ),
    )  # fmt: skip


def _root(left: Callable[[float], bool]) -> float:
    """Where a condition that holds from 0 on ceases to hold, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if left(middle) else (low, middle)
    return high
