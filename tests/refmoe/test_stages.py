"""Exposed stages: both candidates of a byte, and what follows from the port's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle.blocks import Quantised, preset, quantize
from oracle.numerics import PRESETS, Numerics
from oracle.trace import Tap, Trace
from refmoe.compare import compare_bytes
from refmoe.judge import Judgement, judge
from refmoe.parse import parse
from refmoe.problem import Problem, build
from refmoe.reference import trace
from refmoe.verdict import Kind, Outcome

FORM = "mxfp8_e4m3"
BLOCKS = (
    f"experts T=8 H=64 I=64 E=2 k=1 weights={FORM} activations={FORM} requantize={FORM}"
)
#: An accumulator so short that many codes of the intermediate are open.
COARSE = Numerics(accumulate="qgmma_hopper", intermediate="fp32")


@pytest.fixture(scope="module")
def problem() -> Problem:
    return build(parse(BLOCKS)).but(numerics=COARSE)


def bytes_of(problem: Problem, part: float) -> dict[str, torch.Tensor]:
    """Codes and scales of an intermediate that is off by `part` of its bound."""
    tap = trace(problem)["intermediate"]
    assert tap.worst is not None
    blocks = quantize((tap.value + part * tap.worst).float(), preset(FORM))
    return {"intermediate_codes": blocks.codes, "intermediate_scales": blocks.scales}


def judged(
    problem: Problem, taps: dict[str, Any], given: dict[str, Any] | None = None
) -> Judgement:
    """The judgement of a result that follows from `given`."""
    out = trace(problem, given=given or {})["routed"].value.bfloat16()
    return judge(problem, Outcome("ran", {"routed": out}, taps))


def test_stages_admit_both_candidates_of_a_byte(problem: Problem) -> None:
    for part in (-0.9, 0.9):
        own = bytes_of(problem, part)
        want = trace(problem)["intermediate_codes"].value
        assert not torch.equal(own["intermediate_codes"], want)
        found = judged(problem, own, own)
        assert found.first is None
        assert found.verdict.kind is Kind.WITHIN
        assert found.results[0].kind is Kind.BIT_EQUAL


def test_stages_result_follows_from_the_ports_own_bytes(problem: Problem) -> None:
    """Bytes that are admissible do not excuse a result that others would give."""
    own, other = bytes_of(problem, 0.9), bytes_of(problem, -0.9)
    assert judged(problem, {}, own).verdict.kind in (Kind.BIT_EQUAL, Kind.WITHIN)
    sharp = problem.but(numerics=COARSE.but(accumulate="fp64"))
    assert judged(sharp, own, other).verdict.kind is Kind.WRONG


def test_stages_code_that_nothing_explains_is_wrong(problem: Problem) -> None:
    own = bytes_of(problem, 0.0)
    own["intermediate_codes"] = own["intermediate_codes"].clone()
    own["intermediate_codes"][3, 5] ^= 0x08
    found = judged(problem, own)
    assert found.first is not None
    assert (found.first.tap, found.first.index) == ("intermediate_codes", (3, 5))


def test_stages_quantised_x_is_exact(problem: Problem) -> None:
    taps = trace(problem)
    own = {name: taps[name].value.clone() for name in ("x_codes", "x_scales")}
    assert judged(problem, own).first is None
    own["x_scales"][2, 0] += 1
    found = judged(problem, own)
    assert found.first is not None
    assert (found.first.tap, found.first.index) == ("x_scales", (2, 0))


def test_stages_codes_and_scales_come_together(problem: Problem) -> None:
    own = bytes_of(problem, 0.0)
    del own["intermediate_scales"]
    first = judged(problem, own).first
    assert first is not None
    assert first.detail == (
        "intermediate_codes without intermediate_scales; expose both or neither"
    )


def test_stages_unrounded_sum_is_no_divergence() -> None:
    """The exposed sum is fp32, the result bf16: each is compared as what it is."""
    problem = build(parse("experts T=8 H=32 I=32 E=3 k=2 seed=1"))
    routed = trace(problem)["routed"].value.float()
    found = judge(
        problem, Outcome("ran", {"routed": routed.bfloat16()}, {"routed": routed})
    )
    assert found.first is None
    rounded = {"routed": routed.bfloat16()}
    assert judge(problem, Outcome("ran", rounded, rounded)).first is None


def test_stages_narrow_copy_is_not_what_the_next_stage_reads() -> None:
    """A stage shown in fewer bits than declared does not stand in for the real one."""
    problem = build(parse("experts T=8 H=32 I=32 E=3 k=2 seed=1"))
    shown = trace(problem)["gate_up"].value.bfloat16()
    found = judged(problem, {"gate_up": shown})
    assert found.first is None
    assert found.verdict.kind in (Kind.BIT_EQUAL, Kind.WITHIN)
    follows = judged(problem, {"gate_up": shown.float()})
    assert follows.verdict.kind is Kind.WRONG


def test_stages_of_integers_for_floats_are_named() -> None:
    problem = build(parse("experts T=8 H=32 I=32 E=3 k=2 seed=1"))
    shown = trace(problem)["gate_up"].value.long()
    first = judged(problem, {"gate_up": shown}).first
    assert first is not None
    assert first.detail == "gate_up is int64; expose the floats themselves"


@pytest.mark.parametrize("form", ["fp8_group_128", "nvfp4", "fp8_token"])
@pytest.mark.parametrize("op", ["quantize", "grouped_quantize"])
def test_quantize_bytes_may_differ_only_by_a_declared_division(
    op: str, form: str
) -> None:
    """div.full is off by two ulps: scales and codes next to a boundary follow it."""
    sizes = "E=2 k=1 " if op == "grouped_quantize" else ""
    problem = build(parse(f"{op} T=16 H=256 {sizes}format={form}"))
    x = problem.inputs["x"].double() * (1 + 2.0**-22)
    near = problem.but(inputs={**problem.inputs, "x": x.float()})
    outputs = {name: tap.value for name, tap in trace(near).items()}
    if "global_scale" in outputs:
        outputs["global_scale"] = outputs["global_scale"].float()
    strict = judge(problem, Outcome("ran", outputs))
    assert strict.verdict.kind is Kind.WRONG
    declared = problem.but(numerics=PRESETS["triton"])
    found = judge(declared, Outcome("ran", outputs))
    assert found.verdict.kind is Kind.WITHIN
    # With a global scale, that alone moves: E4M3 scales are far from a boundary.
    moved = {v.tap for v in found.results if v.kind is Kind.WITHIN}
    assert moved >= {"global_scale" if form == "nvfp4" else "scales"}
    outputs["codes"] = outputs["codes"].clone()
    outputs["codes"][0, 0] ^= 0x04
    assert judge(declared, Outcome("ran", outputs)).verdict.tap == "codes"


def test_quantize_divisions_by_powers_of_two_are_exact() -> None:
    problem = build(parse("quantize T=16 H=64 format=mxfp4"))
    outputs = {name: tap.value.clone() for name, tap in trace(problem).items()}
    outputs["codes"][1, 1] ^= 1
    fast = problem.but(numerics=PRESETS["triton"])
    assert judge(fast, Outcome("ran", outputs)).verdict.kind is Kind.WRONG


@pytest.mark.parametrize(
    ("computed", "kind"), [(True, Kind.WITHIN), (False, Kind.WRONG)]
)
def test_quantize_zeros_of_a_computed_value_have_either_sign(
    computed: bool, kind: Kind
) -> None:
    """Catches an honest -0 + 0 whose code is that of +0; x itself keeps its sign."""
    form = preset("mxfp4")
    value = torch.zeros(1, 32, dtype=torch.float64)
    value[0, :3] = torch.tensor([4.0, -0.0, -1e-3])
    source = Quantised(Tap(value), form, computed=computed)
    codes = torch.tensor([[6, 0, 8, *[0] * 29]], dtype=torch.uint8)
    want = quantize(value, form)
    taps = Trace(
        {
            "codes": Tap(want.codes, quantised=source),
            "scales": Tap(want.scales, quantised=source),
        }
    )
    assert compare_bytes("", taps, codes, want.scales)[0].kind is kind
    codes[0, 2] = 0
    assert compare_bytes("", taps, codes, want.scales)[0].kind is Kind.WRONG
