"""The planned cases: valid for every model, small, and spread over sizes and loads."""

from __future__ import annotations

import pytest

from oracle.blocks import PRESETS
from oracle.models import MODELS
from refmoe.case import MEMORY, SLOTS, elements
from refmoe.parse import parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cases, cells, plain
from refmoe.problem import build
from refmoe.profiles import PROFILES, words
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
    models = ("mixtral-8x7b", "gpt-oss-120b")
    grid = cells(list(OPS), models, ("mxfp4",), ("randn", "exact"))
    subjects = {op: {cell.subject for cell in grid if cell.op == op} for op in OPS}
    assert subjects["moe"] == set(models)
    assert subjects["quantize"] == {"mxfp4"}
    assert subjects["permute"] == {"-"}
    assert len(grid) == len(set(grid))


@pytest.mark.parametrize("profile", PROFILES)
def test_plan_profiles_can_be_built_for_every_family(profile: str) -> None:
    """Catches words of a profile that no model or format admits."""
    rare = ("longcat-flash", "phi-3.5-moe", "deepseek-v4-flash-hash", "inkling")
    models = (*DEFAULT_MODELS, *rare)
    grid = cells(tuple(OPS), models, DEFAULT_FORMATS, ("randn",))
    chosen = [cell for cell in grid if cell.profile == profile]
    assert chosen
    for cell in chosen:
        every = list(cases(cell, len(words(profile, cell.op))))
        assert len(set(map(str, every))) == len(every)
        for case in every:
            assert parse(str(case)) == case
            assert elements(case) < 1 << 20
            build(case)


def test_plan_of_one_case_each_is_of_ordinary_structure() -> None:
    grid = cells(("route",), ("mixtral-8x7b",), (), ("randn",))
    assert [len(list(cases(cell, 1))) for cell in grid if cell.profile] == [0] * 3


def test_plan_varies_limits_of_models_that_have_one() -> None:
    """Catches a kernel that is blamed for a constant its model has not."""
    grid = cells(("moe",), ("mixtral-8x7b", "gpt-oss-120b"), (), ("randn",))
    varied = {cell.subject for cell in grid if cell.profile == "constants"}
    assert varied == {"gpt-oss-120b"}


def test_plan_profiles_hold_what_kernels_branch_on() -> None:
    grid = cells(tuple(OPS), DEFAULT_MODELS, DEFAULT_FORMATS, ("randn", "exact"))
    found = [case for cell in grid if cell.profile for case in cases(cell, 4)]
    assert {case.memory for case in found} == set(MEMORY)
    assert {case.slots for case in found} == set(SLOTS)
    assert any((case.E or 0) > 256 for case in found)
    assert any(case.k is not None and case.k == case.E for case in found)
    assert any(case.T * (case.k or 0) >= 1 << 16 for case in found)
    limits = {dict(case.changes).get("activation.limit") for case in found}
    assert limits >= {0.0, 0.5, 1.0}
    assert {case.regime for case in found} == {"randn", "nonfinite"}
    for name in ("local", "shard", "logits_dtype", "bias_dtype"):
        assert any(getattr(case, name) is not None for case in found), name
