"""Declarations: what is refused, and what the presets are."""

import pytest

from oracle.bounds import dot_error
from oracle.numerics import (
    ACCUMULATORS,
    FP32_CLASS,
    PRESETS,
    ROUNDING_POINTS,
    Accumulator,
    Elementary,
    Numerics,
    ulps,
)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"accumulate": "hmma"}, "accumulate='hmma' is unknown; use one of 'fp32'"),
        ({"combine": "fp8"}, "combine='fp8' is unknown; use one of 'none'"),
        ({"output": "int8"}, "output='int8' is unknown; use one of None"),
        ({"split_k": 0}, "split_k=0 must be at least 1"),
        ({"subnormals": "drop"}, "subnormals='drop' is unknown; use one of 'keep'"),
        ({"combine_order": "token"}, "combine_order='token' is unknown"),
        ({"ties": "random"}, "ties='random' is unknown; use one of 'lowest'"),
    ],
)
def test_numerics_refuses_what_it_does_not_know(change, message):
    with pytest.raises(ValueError, match=message):
        Numerics(**change)


def test_accumulator_refuses_an_unknown_rounding():
    with pytest.raises(
        ValueError, match="rounding='up' is unknown; use one of 'nearest'"
    ):
        Accumulator("mine", 16, 25, 23, "up")


@pytest.mark.parametrize("point", ROUNDING_POINTS)
def test_numerics_takes_every_type_at_every_point(point):
    for type in ("none", "fp64", "fp32", "bf16", "fp16"):
        assert getattr(Numerics().but(**{point: type}), point) == type


def test_units_of_the_fp32_class_carry_fp32s_significand():
    for unit in Numerics().units:
        assert unit.out_fraction == 23
    assert [unit.name for unit in Numerics().units] == list(FP32_CLASS)
    assert [unit.name for unit in Numerics(accumulate="bf16").units] == ["bf16"]


@pytest.mark.parametrize("name", [n for n, u in ACCUMULATORS.items() if u.biased])
def test_units_with_the_fp32_significand_stay_inside_the_class(name):
    error = dot_error(Numerics(accumulate=name), 4096, 1)
    inside = error.worst <= dot_error(Numerics(), 4096, 1).worst
    assert inside is (ACCUMULATORS[name].out_fraction == 23)


def test_amd_units_stay_inside_the_fp32_class():
    """CDNA3: 8 products and the sum so far cut to 24 bits, then rounded to nearest."""
    step = 1 + 9 * 2.0**-24 + 2.0**-31 + 2.0**-24
    assert step ** (4096 / 8) - 1 <= dot_error(Numerics(), 4096, 1).worst


def test_presets_are_declarations_that_print_as_python():
    for numerics in PRESETS.values():
        copied = eval(repr(numerics), {"Numerics": Numerics, "Elementary": Elementary})
        assert copied == numerics
        assert hash(copied) == hash(numerics)


def test_ulps_count_relative_error_in_fp32():
    assert ulps(0.5).relative == 2.0**-24
    assert ulps(1).type == "fp32"
