"""The numbers behind a finding's pictures: where, how far, which stages, what load."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from refmoe.exhibit import LARGEST, Album, Exhibit, exhibit
from refmoe.judge import judge
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.runner import run
from refmoe.verdict import Kind
from refmoe.verify import Verifier

LAYER = "model=mixtral-8x7b T=9 H=32 I=32 E=8 k=2 regime=randn seed=1"


def shown(port: Any, line: str) -> Exhibit:
    problem = build(parse(line), port_of(port).numerics)
    outcome = run(port_of(port), problem)
    judgement = judge(problem, outcome)
    assert judgement.verdict.kind is Kind.WRONG
    return exhibit(problem, outcome, judgement)


def test_exhibit_shows_where_the_first_stage_diverges(honest: Any) -> None:
    class Slip(honest):  # type: ignore[misc]
        def activation(self, gate_up: torch.Tensor, layer: Any) -> torch.Tensor:
            hidden: torch.Tensor = super().activation(gate_up, layer)
            hidden[3, 7] += 1
            return hidden

    found = shown(Slip(), f"moe {LAYER}")
    assert (found.tap, found.shape) == ("intermediate", (18, 32))
    beyond = {
        (y, x)
        for y, row in enumerate(found.grid)
        for x, ratio in enumerate(row)
        if ratio > 1
    }
    assert beyond == {(3, 7)}
    rungs = {rung.tap: rung.verdict for rung in found.ladder}
    assert list(rungs).index("gate_up") < list(rungs).index("intermediate")
    kinds = {tap: verdict and verdict.kind for tap, verdict in rungs.items()}
    assert kinds["scores"] is None
    assert kinds["intermediate"] is Kind.WRONG
    assert sum(found.load) == 18
    assert len(found.load) == 8


def test_exhibit_of_a_large_tap_keeps_the_worst_of_each_patch(honest: Any) -> None:
    class Slip(honest):  # type: ignore[misc]
        taps = ()

        def combine(
            self, down: torch.Tensor, rows: torch.Tensor, weights: torch.Tensor
        ) -> torch.Tensor:
            out: torch.Tensor = super().combine(down, rows, weights)
            out[-1, -1] += 100
            return out

    found = shown(Slip(), "combine T=130 H=352 E=4 k=2 regime=randn seed=1")
    assert (len(found.grid), len(found.grid[0])) == (LARGEST, LARGEST)
    assert found.shape == (130, 352)
    assert found.grid[-1][-1] == found.worst > 1
    assert sum(ratio > 1 for row in found.grid for ratio in row) == 1


@pytest.mark.parametrize(
    "op, line, tap",
    [
        ("route", "route T=5 E=8 k=2 regime=randn", "ids"),
        ("permute", "permute T=5 E=8 k=2 regime=randn", "offsets"),
        ("grouped_gemm", "grouped_gemm T=5 H=64 I=32 E=4 k=2 regime=randn", "y"),
        ("activate", "activate T=5 I=32 E=4 k=2 regime=randn", "intermediate"),
        ("omni_route", "omni_route T=5 E=9 k=2 regime=randn", "scores"),
    ],
)
def test_exhibit_of_every_kind_of_result(
    honest: Any, op: str, line: str, tap: str
) -> None:
    """Off by one in the first element: of ids that is the whole token."""
    port = honest()
    function = getattr(port, op)
    place = {"permute": 1}.get(op, 0)

    def off(*arguments: Any) -> Any:
        result = function(*arguments)
        results = result if isinstance(result, tuple) else (result,)
        results[place][(0,) * results[place].ndim] += 1
        return result

    found = shown({op: off, "device": "cpu", "numerics": port.numerics}, line)
    assert found.tap == tap
    beyond = [ratio > 1 for row in found.grid for ratio in row]
    assert any(beyond)
    assert sum(beyond) <= 2
    assert not any(math.isnan(ratio) for row in found.grid for ratio in row)


def test_album_pictures_the_first_findings_of_a_place_only(honest: Any) -> None:
    port = honest()
    swapped = {"omni_route": lambda x, y, k: port.omni_route(y, x, k), "device": "cpu"}
    right, wrong = port_of(port), port_of(swapped)
    case, verifier = parse("omni_route T=4 E=9 k=3"), Verifier(album=Album(1))
    ports = [right, wrong, wrong]
    made = [verifier.check(one, case).exhibit is not None for one in ports]
    assert made == [False, True, False]
    assert Verifier().check(wrong, case).exhibit is None
