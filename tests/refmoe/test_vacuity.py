"""A bound that admits zeros is no green pass, and honest arithmetics have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from oracle.numerics import PRESETS, Elementary, Numerics
from oracle.trace import Tap
from refmoe.judge import Judgement, judge
from refmoe.parse import parse
from refmoe.plan import Cell, cells
from refmoe.port import Port
from refmoe.problem import build
from refmoe.record import Record
from refmoe.reference import trace
from refmoe.vacuity import admits_zero, known, suspicious, vacuous
from refmoe.verdict import Kind, Outcome, Verdict
from refmoe.verify import status, verify

IEEE = Numerics()
#: A sigmoid that may be anything, and all that follows from it.
ANYTHING = Numerics(sigmoid=Elementary(1e30))
CASE = "moe model=mixtral-8x7b T=9 H=64 I=64 E=4 k=2"


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def judged(numerics: Numerics, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    problem = build(parse(CASE)).but(numerics=numerics)
    out = change(trace(problem.but(numerics=IEEE))["out"].value).bfloat16()
    return judge(problem, Outcome("ran", {"out": out})).verdict


def test_vacuity_admits_zero_where_the_bound_reaches_it() -> None:
    tap = Tap(tensor(1.0, 1.0, 0.0, -2.0), tensor(0.5, 1.0, 3.0, 2.0))
    assert admits_zero(tap, "fp32", IEEE).tolist() == [False, True, False, True]
    assert not admits_zero(Tap(tensor(1.0)), "fp32", IEEE).any()


def test_vacuity_blames_the_declaration_only_for_what_it_adds() -> None:
    value = tensor(1.0, 1.0, 1.0, 0.0)
    wide, sharp = tensor(2.0, 2.0, 0.1, 9.0), tensor(2.0, 0.1, 0.1, 0.0)
    assert suspicious(Tap(value, wide), "fp32", IEEE)
    share = vacuous(Tap(value, wide), Tap(value, sharp), "fp32", IEEE)
    assert share == 1 / 3


def test_vacuity_known_holds_functions_to_the_worst_known_one() -> None:
    for numerics in PRESETS.values():
        assert known(numerics) == numerics
    held = known(ANYTHING)
    assert held != ANYTHING
    assert held.sigmoid.relative == max(n.sigmoid.relative for n in PRESETS.values())
    assert held.but(sigmoid=ANYTHING.sigmoid) == ANYTHING


@pytest.mark.parametrize("cheat", [torch.zeros_like, torch.neg, lambda t: t * 1.5])
def test_judge_what_only_a_boundless_declaration_admits_is_wrong(
    cheat: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Declaring a sigmoid of error 10^30 used to make zeros WITHIN."""
    verdict = judged(ANYTHING, cheat)
    assert verdict.kind is Kind.WRONG
    assert "admits zeros" in verdict.detail
    assert "no known elementary functions err as much" in verdict.detail


def test_judge_right_result_under_a_boundless_declaration_is_vacuous() -> None:
    verdict = judged(ANYTHING, lambda out: out)
    assert verdict.kind in (Kind.BIT_EQUAL, Kind.VACUOUS)
    # One element off by a rounding, so that not all of it is bit-equal.
    verdict = judged(ANYTHING, lambda out: out * (1 + 2.0**-8))
    assert verdict.kind in (Kind.VACUOUS, Kind.WRONG)
    assert "admits zeros" in verdict.detail


def test_judge_stage_in_a_boundless_declaration_is_no_stand_in() -> None:
    """Whoever shows a stage that anything passes for hides behind it no better."""
    problem = build(parse(CASE)).but(numerics=ANYTHING)
    hidden = torch.zeros_like(trace(problem)["intermediate"].value)
    given = {"intermediate": hidden}
    out = trace(problem, given=given)["out"].value.bfloat16()
    outcome = Outcome("ran", {"out": out}, {"intermediate": hidden.bfloat16()})
    found = judge(problem, outcome)
    assert found.verdict.kind is Kind.WRONG
    assert found.first is not None
    assert found.first.tap == "intermediate"


def test_judge_known_unit_that_cannot_tell_zero_is_undecided() -> None:
    """Cancelling sums on 14 bits: no case of them is a green pass or a finding."""
    line = "grouped_gemm model=deepseek-v4-flash T=17 H=96 I=160 E=19 k=6"
    problem = build(parse(f"{line} regime=cancelling shared.intermediate=160"))
    problem = problem.but(numerics=Numerics(accumulate="qgmma_hopper"))
    y = trace(problem)["y"].value.bfloat16()
    y[0, 0] += 1.0
    verdict = judge(problem, Outcome("ran", {"y": y})).verdict
    assert verdict.kind is Kind.UNDECIDED
    assert verdict.detail.startswith("the declared arithmetic admits zeros in")
    assert not verdict.kind.reported


def zeros(
    x: torch.Tensor, logits: torch.Tensor, params: Any, layer: Any
) -> torch.Tensor:
    return torch.zeros_like(x)


def test_verify_zeros_with_a_boundless_declaration_fail() -> None:
    port = Port("zeros", {"moe": zeros}, ANYTHING, True, {"device": "cpu"})
    grid = cells(("moe",), ("mixtral-8x7b",), (), ("randn",))[:1]
    records = verify([port], grid, 2)
    assert [record.kind for record in records] == [Kind.WRONG] * 2


def test_status_nothing_decided_is_nothing_executed() -> None:
    def record(kind: Kind) -> Record:
        cell = Cell("moe", "-", "randn")
        return Record(
            "port", cell, "moe T=1 H=8 I=8 E=2 k=1", (), Judgement(Verdict(kind)), 0.0
        )

    for kind in (Kind.UNDECIDED, Kind.VACUOUS, Kind.REFUSED):
        assert status([record(kind)]) == 3
        assert status([record(kind), record(Kind.WITHIN)]) == 0
