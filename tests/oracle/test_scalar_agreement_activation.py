"""The two oracles activate alike, and the first one's bounds hold the truth."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import bounds
from oracle.activation import activate as first
from oracle.formats import round_to
from oracle.numerics import PRESETS, Numerics
from oracle.scalar.activation import activate as second
from oracle.scalar.experts import rounded
from oracle.scalar.interval import FLOAT64, precision
from oracle.spec import Activation
from oracle.trace import Tap

REFERENCE = PRESETS["reference"]
KINDS = (
    "swiglu", "geglu_tanh", "geglu_erf", "softcap",
    "silu", "gelu_erf", "relu2", "identity",
)  # fmt: skip
halves = st.floats(-150, 150, width=32) | st.sampled_from(
    [0.0, -0.0, 7.0, -7.0, 2.0**-100]
)
limits = st.sampled_from([0.0, 0.5, 1.0, 7.0, 10.0])
numbers = st.sampled_from([1.0, 1.702, 0.0, -0.5, 2.0])


@st.composite
def rows(draw, kind):
    """An activation, gate and up values, and each row's own numbers or None."""
    activation = Activation(
        kind,
        alpha=draw(numbers),
        beta=draw(numbers),
        limit=draw(limits | st.none()),
        clamp=draw(st.sampled_from(["before", "after"])),
        gate_cap=draw(st.sampled_from([4.0, 0.5])),
        up_cap=draw(st.sampled_from([25.0, 3.0])),
    )
    count = draw(st.integers(1, 4))
    gate, up = (draw(st.lists(halves, min_size=count, max_size=count)) for _ in "gu")
    own = {}
    for name, values in (("alpha", numbers), ("beta", numbers), ("limit", limits)):
        if activation.gated and draw(st.booleans()):
            own[name] = draw(st.lists(values, min_size=count, max_size=count))
    return activation, gate, up, own


def tensors(own):
    """Each row's own numbers as float64 tensors."""
    return {name: torch.tensor(v, dtype=torch.float64) for name, v in own.items()}


def by_second(activation, gate, up, own):
    """One enclosure for each row."""
    return [
        second(
            g if activation.gated else None,
            u,
            activation,
            **{name: values[i] for name, values in own.items()},
        )
        for i, (g, u) in enumerate(zip(gate, up, strict=True))
    ]


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True)
@given(data=st.data())
def test_scalar_activation_agrees(kind, data):
    activation, gate, up, own = data.draw(rows(kind))
    columns = [gate, up] if activation.gated else [up]
    tap = bounds.exactly(torch.tensor(columns, dtype=torch.float64).T.contiguous())
    overrides = tensors(own)
    with precision(FLOAT64):
        regions = by_second(activation, gate, up, own)
    value = first(tap, activation, REFERENCE, **overrides).value[:, 0].tolist()
    for got, region in zip(value, regions, strict=True):
        assert got in region


@pytest.mark.parametrize("name", ["ieee", "cuda_fast", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, max_examples=15)
@given(data=st.data())
def test_scalar_activation_truth_lies_within_the_bounds(kind, name, data):
    """The truth rounded once is a result that every bound must admit."""
    activation, gate, up, own = data.draw(rows(kind))
    columns = [gate, up] if activation.gated else [up]
    tap = bounds.exactly(torch.tensor(columns, dtype=torch.float64).T.contiguous())
    result = first(tap, activation, PRESETS[name], **tensors(own))
    worst = torch.zeros_like(result.value) if result.worst is None else result.worst
    point = PRESETS[name].activation
    truths = [rounded(truth, point) for truth in by_second(activation, gate, up, own)]
    for value, radius, truth in zip(
        result.value[:, 0].tolist(), worst[:, 0].tolist(), truths, strict=True
    ):
        assert value - Fraction(radius) <= truth.high
        assert truth.low <= value + Fraction(radius)


@pytest.mark.parametrize("type", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, max_examples=10)
@given(data=st.data())
def test_scalar_activation_may_round_its_operands_first(kind, type, data):
    """Catches wider gate and up that arithmetic in 16 bits could not take as they are.

    That is an activation in bf16 of what GEMM1 leaves in fp32, or is given in fp16.
    """
    activation, gate, up, own = data.draw(rows(kind))
    columns = [gate, up] if activation.gated else [up]
    wide = torch.tensor(columns, dtype=torch.float64).T.contiguous()
    narrow = round_to(wide, type).T.tolist()
    taken = (narrow[0], narrow[-1])
    result = first(Tap(wide), activation, Numerics(activation=type), **tensors(own))
    worst = torch.zeros_like(result.value) if result.worst is None else result.worst
    for value, radius, truth in zip(
        result.value[:, 0].tolist(),
        worst[:, 0].tolist(),
        by_second(activation, *taken, own),
        strict=True,
    ):
        truth = rounded(truth, type)
        if math.isfinite(radius):
            assert value - Fraction(radius) <= truth.high
            assert truth.low <= value + Fraction(radius)


@pytest.mark.parametrize("gate", [-5.5, -9.0, -12.0])
@pytest.mark.parametrize("kind", ["geglu_erf", "geglu_tanh"])
def test_scalar_gelu_tail_covers_its_own_evaluation(kind, gate):
    """Catches a bound at the tail that float64's erfc misses by its last bits."""
    activation = Activation(kind=kind, beta=1.0)
    tap = bounds.exactly(torch.tensor([[gate, 0.0]], dtype=torch.float64))
    result = first(tap, activation, REFERENCE)
    (truth,) = by_second(activation, [gate], [0.0], {})
    value, radius = float(result.value), float(result.worst)
    assert value - Fraction(radius) <= truth.low
    assert truth.high <= value + Fraction(radius)
