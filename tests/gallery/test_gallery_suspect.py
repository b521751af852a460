"""SUSPECT comes no more often than its stated probability allows."""

from __future__ import annotations

import math
from itertools import islice

import pytest

from refmoe.gallery import entries
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_MODELS, cells
from refmoe.schedule import schedule
from refmoe.verdict import Kind
from refmoe.verify import Verifier

#: Honest ports whose units round to nearest: only those have a statistical bound.
STATISTICAL = [
    name
    for name, entry in entries("honest").items()
    if not any(unit.biased for unit in entry.numerics.units)
    and entry.numerics.accumulate != "fp64"
]
#: Chance that a right implementation of the bounds fails these tests.
CHANCE = 2.0**-20


def allowed(mean: float) -> int:
    """The count that a Poisson variable of this mean exceeds with less than CHANCE."""
    term = left = math.exp(-mean)
    count = 0
    while 1.0 - left > CHANCE:
        count += 1
        term *= mean / count
        left += term
    return count


def suspects(name: str, count: int, seed: int) -> tuple[int, float, int]:
    """SUSPECT results of one port, how many are to be expected, and results."""
    entry = entries("honest")[name]
    port, verifier = port_of(entry.port(), name), Verifier()
    grid = cells(
        ("grouped_gemm", "experts"), entry.models or DEFAULT_MODELS, (), ("randn",)
    )
    found, expected, results = 0, 0.0, 0
    for _, cell, case in islice(schedule([port], grid, count, seed), count):
        for verdict in verifier.check(port, case, cell).judgement.results:
            if verdict.probability is not None:
                found += verdict.kind is Kind.SUSPECT
                expected += verdict.probability
                results += 1
    return found, expected, results


def test_allowed_counts_follow_the_mean() -> None:
    assert [allowed(mean) for mean in (0.0, 1e-7, 1e-3, 1.0)] == [0, 0, 1, 9]


@pytest.mark.parametrize("name", STATISTICAL[:3])
def test_gallery_suspect_is_as_rare_as_stated(name: str) -> None:
    found, expected, results = suspects(name, 4, 0)
    assert results > 0
    assert 0.0 < expected < 1.0
    assert found <= allowed(expected)


@pytest.mark.long
@pytest.mark.parametrize("name", STATISTICAL)
def test_gallery_suspect_is_as_rare_as_stated_in_many_cases(name: str) -> None:
    found, expected, results = suspects(name, 400, 5000)
    assert results >= 100
    assert found <= allowed(expected), f"{found} SUSPECT, {expected:.2g} expected"
