"""Every regime is needed: a mistake that it shows, and no other."""

from __future__ import annotations

import pytest

from refmoe.gallery import entries
from refmoe.gallery.entry import Entry
from refmoe.judge import judge
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_FORMATS, cases, cells
from refmoe.problem import build
from refmoe.protocol import OPS
from refmoe.regimes import REGIMES
from refmoe.runner import run

#: A mistake that the regime alone shows, and the op to look for it in.
SHOWS = {
    "randn": ("line_where_gates_are_small", "experts"),
    "exact": ("output_half_away", "experts"),
    "heavy": ("scales_through_e4m3", "experts"),
    "ties": ("highest_of_equals", "route"),
    "saturated": ("sigmoid_before_the_choice", "route"),
    "biased": ("selection_bias_in_bf16", "route"),
    "limits": ("rows_of_closed_gates_are_zero", "activate"),
    "large": ("rows_in_the_range_of_fp16", "combine"),
    "cancelling": ("twenty_one_bits", "grouped_gemm"),
    "subnormal": ("subnormal_rows_are_zero", "combine"),
    "codes": ("byte_0_is_zero", "dequantize"),
    "rounding": ("zero_block_has_a_nan_scale", "quantize"),
    "nonfinite": ("nan_row_repeats_expert_0", "route"),
}
#: Cases of every regime, and their tokens: rows enough for every scale to come once.
BUDGET, TOKENS = 2, {"dequantize": 128, "quantize": 32}
MISTAKES = entries("mistake")


def shows(regime: str, op: str, entry: Entry) -> bool:
    """Whether a case leaves the declared arithmetic, whatever else may explain it."""
    models = entry.models or ("mixtral-8x7b",)
    formats = entry.formats or DEFAULT_FORMATS
    cell = cells((op,), models[:1], formats[:1], (regime,))[0]
    (case,) = cases(cell, 1)
    port = port_of(entry.port(), entry.name)
    problems = (
        build(case.but(T=TOKENS.get(op, 8), seed=seed)).but(numerics=port.numerics)
        for seed in range(BUDGET)
    )
    return any(
        judge(problem, run(port, problem)).verdict.kind.failed for problem in problems
    )


@pytest.mark.parametrize("name", SHOWS)
def test_regime_shows_what_no_other_shows(name: str) -> None:
    """At an equal number of cases; other regimes as far as they suit the op."""
    mistake, op = SHOWS[name]
    suited = [n for n, rule in REGIMES.items() if op in rule.suits or not rule.suits]
    assert [n for n in suited if shows(n, op, MISTAKES[mistake])] == [name]


def test_regimes_all_have_a_mistake_of_their_own() -> None:
    assert list(SHOWS) == list(REGIMES)
    assert len({mistake for mistake, _ in SHOWS.values()}) == len(SHOWS)
    assert all(rule.bug and set(rule.suits) <= set(OPS) for rule in REGIMES.values())
