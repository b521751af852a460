"""Case lines: round trips, and the reasons for which a line is rejected."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle.blocks import PRESETS
from oracle.spec import BlockFormat
from refmoe.case import LOADS, Case, elements
from refmoe.parse import LARGEST, parse

LINE = "moe T=8 H=64 I=32 E=8 k=2 regime=randn seed=7"


def test_case_prints_as_the_line_that_it_came_from() -> None:
    assert str(parse(LINE)) == LINE


def test_case_words_may_come_in_any_order() -> None:
    op, *words = LINE.split()
    assert parse(" ".join([op, *reversed(words)])) == parse(LINE)


def test_case_layer_has_the_sizes_and_changes() -> None:
    case = parse(
        "moe T=2 H=64 I=32 E=8 k=2 weights=mxfp4 dtype=fp16 routing.groups=4 "
        "routing.top_groups=2 activation.limit=7 expert_bias=true weight_on=input "
        "shared.intermediate=64 regime=exact"
    )
    layer = case.layer
    assert (layer.hidden, layer.intermediate, layer.experts, layer.top_k) == (
        64,
        32,
        8,
        2,
    )
    assert isinstance(layer.weights, BlockFormat)
    assert layer.weights.name == "mxfp4"
    assert layer.dtype == "fp16"
    assert layer.routing.groups == 4
    assert layer.activation.limit == 7.0
    assert layer.expert_bias
    assert layer.weight_on == "input"
    assert layer.shared is not None
    assert layer.shared.intermediate == 64


def test_case_without_a_limit_is_spelt_none() -> None:
    case = parse(f"{LINE} activation.limit=none routing.softcap=none")
    assert case.layer.activation.limit is None
    assert "activation.limit=none" in str(case)


_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "routing.scale": st.floats(-1e9, 1e9),
        "routing.renormalize": st.sampled_from(["none", "sum"]),
        "activation.alpha": st.floats(allow_nan=False, allow_infinity=False),
        "activation.limit": st.none() | st.floats(0.0, 1e6),
        "expert_bias": st.booleans(),
    },
)


@given(
    case=st.builds(
        Case,
        op=st.sampled_from(["moe", "experts", "route"]),
        T=st.integers(0, 100),
        H=st.integers(1, 100),
        I=st.integers(1, 100),
        E=st.integers(3, 20),
        k=st.integers(1, 3),
        dtype=st.none() | st.sampled_from(["bf16", "fp32"]),
        weights=st.none() | st.sampled_from(["bf16", *PRESETS]),
        regime=st.sampled_from(["randn", "exact"]),
        load=st.sampled_from(LOADS),
        arch=st.none() | st.just("sm_90"),
        changes=_CHANGES.map(lambda found: tuple(sorted(found.items()))),
        seed=st.integers(0, 2**63 - 1),
    )
)
def test_case_round_trips_exactly(case: Case) -> None:
    assert parse(str(case)) == case


@given(
    line=st.text(max_size=60) | st.from_regex(r"moe( [a-zA-Z.]{1,8}=[\w.:+-]{1,9})*")
)
def test_case_parser_accepts_or_raises_value_error(line: str) -> None:
    """Whatever the text: a case that prints as it reads, or a ValueError."""
    try:
        case = parse(line)
    except ValueError:
        return
    assert parse(str(case)) == case


REJECTED = [
    ("", "the line is empty"),
    ("mo T=1", "no op is called 'mo'; did you mean 'moe'?"),
    (f"{LINE} T=9", "T is given twice"),
    (f"{LINE} routing.scale=2 routing.scale=2", "routing.scale is given twice"),
    (f"{LINE} top_k=9", "no key is called 'top_k'"),
    (f"{LINE} routing.scal=2", "did you mean 'routing.scale'?"),
    (f"{LINE} verbose", "'verbose' is no key=value; write for example T=8"),
    (
        f"{LINE} load=cold",
        "load='cold' is unknown; use one of uniform, hot, half, high",
    ),
    (f"{LINE} dtype=int8", "dtype='int8' is unknown"),
    (f"{LINE} weights=mxfp5", "mxfp5"),
    (f"{LINE} routing.scale=nan", "routing.scale='nan' is no finite number"),
    (f"{LINE} routing.scale=1_0", "routing.scale='1_0' is no finite number"),
    (f"{LINE} routing.scale=two", "routing.scale='two' is no number"),
    (f"{LINE} expert_bias=yes", "expert_bias='yes' is neither true nor false"),
    (f"{LINE} arch=__import__('os')", "is no value; use letters, digits"),
    ("moe T=-1 H=1 I=1 E=1 k=1", "T='-1' is no whole number"),
    ("moe T=1_0 H=1 I=1 E=1 k=1", "T='1_0' is no whole number"),
    ("moe T=١ H=1 I=1 E=1 k=1", "is no value"),
    ("moe T=1 H=0 I=1 E=1 k=1", "H=0 is out of range; give 1 to 131072"),
    ("moe T=1 H=8 I=8 E=4 k=5", "top_k=5 exceeds the 4 experts"),
    ("moe T=1 H=8 I=8 E=4", "k is missing; moe needs H, I, E, k, or a model"),
    ("moe T=1 model=gpt-7 H=8", "gpt-7"),
    (f"permute E=2 k=1 seed={2**63}", "seed=9223372036854775808 is out of range"),
    ("moe T=1 H=8 I=8 E=4 k=2 shared.count=2", "shared.intermediate is missing"),
    (
        "moe T=1 H=65536 I=65536 E=64 k=1",
        "make T, H, I or E smaller, or lift the bound",
    ),
    ("moe " + "T=1" * 1000, "the limit is 2000"),
]


@pytest.mark.parametrize("line, reason", REJECTED, ids=[r for _, r in REJECTED])
def test_case_rejects_nonsense_with_the_reason(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse(line)


def test_case_size_bound_can_be_lifted() -> None:
    line = "moe T=1 H=8192 I=8192 E=8 k=1 regime=randn seed=0"
    with pytest.raises(ValueError, match=str(LARGEST)):
        parse(line)
    case = parse(line, largest=None)
    assert elements(case) > LARGEST


def test_case_op_needs_only_the_sizes_that_it_looks_at() -> None:
    assert parse("permute T=4 E=8 k=2").layer.hidden == 1
    with pytest.raises(
        ValueError, match="k is missing; permute needs E, k, or a model"
    ):
        parse("permute T=4 E=8")
