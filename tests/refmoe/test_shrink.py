"""Shrinking keeps what fails and drops the rest."""

from __future__ import annotations

import pytest

from refmoe.case import Case, elements
from refmoe.gallery import entries
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.shrink import shrink
from refmoe.verify import Verifier


def test_shrink_finds_the_least_case_of_a_predicate() -> None:
    case = parse(
        "moe model=deepseek-v3 T=65 H=96 I=160 E=24 k=8 regime=heavy load=hot "
        "shared.intermediate=160 seed=8"
    )
    small = shrink(case, lambda c: c.T >= 3 and c.layer.experts > 4, runs=1000)
    assert str(small) == "moe T=3 H=1 I=1 E=5 k=1 regime=randn seed=0"


def test_shrink_keeps_what_the_failure_needs() -> None:
    case = parse("moe model=gpt-oss-120b T=17 H=96 I=160 E=9 k=4 regime=heavy seed=3")
    small = shrink(case, lambda c: c.layer.activation.limit == 7.0, runs=1000)
    assert small.model == "gpt-oss-120b"
    assert small.T == 0


def test_shrink_returns_the_case_where_nothing_smaller_fails() -> None:
    case = parse("route T=3 E=8 k=2 seed=1")
    assert shrink(case, lambda c: c == case) == case


@pytest.mark.parametrize("runs", [0, 1, 5])
def test_shrink_stays_within_its_runs(runs: int) -> None:
    """A hang costs its whole deadline: five runs at most are spent on one."""
    asked: list[Case] = []

    def fails(case: Case) -> bool:
        asked.append(case)
        return False

    case = parse("moe model=deepseek-v3 T=65 H=96 I=160 E=24 k=8 regime=heavy")
    assert shrink(case, fails, runs=runs) == case
    assert len(asked) == runs


def test_shrink_stops_at_its_deadline() -> None:
    case = parse("route T=300 E=8 k=2")
    assert shrink(case, lambda c: True, seconds=0.0) == case


def test_shrink_never_grows_the_case() -> None:
    """Catches a change left out that brings the model's own large size back."""
    case = parse("moe model=deepseek-v3 T=2 H=32 I=32 E=8 k=1 shared.intermediate=32")
    seen: list[int] = []

    def fails(candidate: Case) -> bool:
        seen.append(elements(candidate))
        return candidate.model is not None

    shrink(case, fails)
    assert max(seen) <= elements(case)


def test_shrink_reduces_a_mistake_of_the_gallery() -> None:
    port = port_of(entries("mistake")["gate_and_up_swapped"].port())
    case = parse("experts model=mixtral-8x7b T=17 H=96 I=160 E=9 k=2 regime=heavy")
    first = Verifier().check(port, case).judgement.verdict

    def fails(candidate: Case) -> bool:
        verdict = Verifier().check(port, candidate).judgement.verdict
        return (verdict.kind, verdict.tap) == (first.kind, first.tap)

    small = shrink(case, fails, runs=60)
    assert first.kind.failed
    assert small.model is None
    assert elements(small) < elements(case) / 100
