"""The planned cases: valid for every model, small, and spread over sizes and loads."""

from __future__ import annotations

import pytest

from oracle.blocks import PRESETS
from oracle.models import MODELS
from refmoe.case import elements
from refmoe.parse import parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cases, cells, plain
from refmoe.problem import build
from refmoe.protocol import OPS

COUNT = 8


def test_plan_defaults_exist() -> None:
    assert set(DEFAULT_MODELS) <= set(MODELS)
    assert set(DEFAULT_FORMATS) <= set(PRESETS)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("regime", ["randn", "exact"])
def test_plan_every_model_gives_small_valid_cases(model: str, regime: str) -> None:
    for case in cases(Cell("moe", model, regime), COUNT):
        assert parse(str(case)) == case
        assert elements(case) < 1 << 23
        assert plain(case).layer.weights == case.layer.dtype
        if regime == "exact":
            assert case.k is not None
            assert case.k & (case.k - 1) == 0


@pytest.mark.parametrize("model", ["deepseek-v3", "gpt-oss-120b", "longcat-flash"])
def test_plan_cases_can_be_built(model: str) -> None:
    for case in cases(Cell("moe", model, "randn"), COUNT):
        build(case)


@pytest.mark.parametrize("form", PRESETS)
def test_plan_every_format_gives_valid_cases(form: str) -> None:
    for op in ("quantize", "dequantize", "grouped_quantize"):
        for case in cases(Cell(op, form, "randn"), 3):
            assert parse(str(case)) == case
            build(case)


def test_plan_covers_sizes_and_loads_that_break_tiles() -> None:
    planned = list(cases(Cell("moe", "mixtral-8x7b", "randn"), COUNT))
    assert {case.T for case in planned} >= {0, 1, 17, 33, 65, 129}
    assert {case.load for case in planned} == {"uniform", "hot", "half", "high"}
    assert any(case.H is not None and case.H % 64 for case in planned)
    assert any(case.E is not None and case.E & (case.E - 1) for case in planned)
    assert len({case.seed for case in planned}) == COUNT


def test_plan_cells_tell_models_and_formats_apart() -> None:
    grid = cells(list(OPS), ("a", "b"), ("mxfp4",), ("randn", "exact"))
    subjects = {op: {cell.subject for cell in grid if cell.op == op} for op in OPS}
    assert subjects["moe"] == {"a", "b"}
    assert subjects["quantize"] == {"mxfp4"}
    assert subjects["permute"] == {"-"}
    assert len(grid) == len(set(grid))
