"""Activations and experts of the second oracle, against torch in float64."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from oracle.scalar.activation import activate
from oracle.scalar.experts import Expert, combine, routed_row, through
from oracle.scalar.interval import FLOAT64, Interval, precision
from oracle.scalar.keys import Undecided
from oracle.spec import Activation, BlockFormat, Layer, Routing, Shared

halves = st.floats(-20, 20, width=32)


def by_torch(activation, gate, up):
    """The formula of each kind, written with torch's own functions."""
    g, u = (torch.tensor(x, dtype=torch.float64) for x in (gate, up))
    limit = activation.limit
    if limit:
        u = u.clamp(-limit, limit)
        g = g.clamp(max=limit) if activation.clamp == "before" else g
    left = {
        "swiglu": lambda: g * torch.sigmoid(activation.alpha * g),
        "geglu_tanh": lambda: functional.gelu(g, approximate="tanh"),
        "geglu_erf": lambda: functional.gelu(g),
        "softcap": lambda: 4 * torch.tanh(g / 4) * torch.sigmoid(g),
        "silu": lambda: functional.silu(u),
        "gelu_erf": lambda: functional.gelu(u),
        "relu2": lambda: u.relu() ** 2,
        "identity": lambda: u,
    }[activation.kind]()
    if not activation.gated:
        return float(left)
    if limit and activation.clamp == "after":
        left = left.clamp(max=limit)
    if activation.kind == "softcap":
        u = 25 * torch.tanh(u / 25)
    return float(left * (u + activation.beta))


@pytest.mark.parametrize(
    "activation",
    [
        Activation(),
        Activation(alpha=1.702, beta=1.0, limit=7.0),
        Activation(limit=1.0),
        Activation(limit=1.0, clamp="after"),
        Activation("geglu_tanh"),
        Activation("geglu_erf"),
        Activation("softcap"),
        Activation("silu"),
        Activation("gelu_erf"),
        Activation("relu2"),
        Activation("identity"),
    ],
    ids=lambda a: f"{a.kind}-{a.limit}-{a.clamp}",
)
@given(gate=halves, up=halves)
def test_scalar_activate_encloses_torch(activation, gate, up):
    gate_or_none = gate if activation.gated else None
    truth = activate(gate_or_none, up, activation)
    with precision(FLOAT64):
        region = activate(gate_or_none, up, activation)
    assert by_torch(activation, gate, up) in region
    assert region.low <= truth.low <= truth.high <= region.high


def test_scalar_activate_takes_an_experts_own_numbers():
    """g = u = 9: clamped to 1, sigmoid(2), up + 3."""
    got = activate(9.0, 9.0, Activation(), alpha=2.0, beta=3.0, limit=1.0)
    with precision(FLOAT64):
        region = Interval.of(4) * activate(1.0, 1.0, Activation(alpha=2.0))
    assert region.low <= got.low <= got.high <= region.high
    assert activate(9.0, 1.0, Activation(limit=7.0), limit=math.inf).low > 8
    with pytest.raises(ValueError, match="swiglu needs a gate"):
        activate(None, 1.0, Activation())


IDENTITY = Activation("identity")
#: Two experts on H = I = 1 without nonlinearity: y = down (gate_up x + b1) + b2.
DOUBLE = Expert([[2.0]], [[1.0]], [1.0], [10.0])
TRIPLE = Expert([[3.0]], [[1.0]], [0.0], [0.0])


def tiny(**changes):
    return Layer(1, 1, 2, 2, activation=IDENTITY, expert_bias=True, **changes)


@pytest.mark.parametrize(
    ("weight_on", "want"),
    [("output", (2 * 5 + 1 + 10) * 3), ("intermediate", (2 * 5 + 1) * 3 + 10),
     ("input", 2 * 15 + 1 + 10)],
)  # fmt: skip
def test_scalar_weight_meets_the_stage_it_is_declared_on(weight_on, want):
    layer = tiny(weight_on=weight_on)
    assert routed_row([5.0], [0], [3.0], [DOUBLE, TRIPLE], layer) == [Interval.of(want)]


def test_scalar_slots_repeat_vanish_and_pass_through():
    layer = tiny(routing=Routing(zero_experts=1, scale=4.0, scale_on="sum"))
    experts = [DOUBLE, TRIPLE]
    assert routed_row([5.0], [1, 1], [1.0, 2.0], experts, layer) == [Interval.of(180)]
    assert routed_row([5.0], [-1, 1], [9.0, 1.0], experts, layer) == [Interval.of(60)]
    assert routed_row([5.0], [2, -1], [3.0, 1.0], experts, layer) == [Interval.of(60)]
    assert routed_row([5.0], [-1, -1], [1.0, 1.0], experts, layer) == [Interval.of(0)]


@pytest.mark.parametrize(
    ("how", "want"), [("add", 6.0), ("average", 3.0), ("rsqrt2", 6.0 / math.sqrt(2.0))]
)
def test_scalar_combine_forms(how, want):
    layer = tiny(shared=Shared(1, combine=how))
    with precision(FLOAT64):
        (got,) = combine([Interval.of(4)], [Interval.of(2)], layer)
    assert want in got


def test_scalar_through_proves_its_codes():
    format = BlockFormat("mx", "e2m1", (1, 2))
    width = Fraction(1, 2**200)
    sure = Interval(Fraction(4) - width, Fraction(4) + width)
    unsure = Interval(Fraction(5) - width, Fraction(5) + width)
    low = Interval(Fraction(-9, 8) - width, Fraction(-9, 8))
    with pytest.raises(Undecided, match="straddles"):
        through([sure, low], format)
    with pytest.raises(Undecided, match="straddles"):
        through([Interval.of(6), unsure], format)
    assert through([Interval.of(6), low], format)[1] == Interval.of(-1)
    with pytest.raises(ValueError, match="needs a given global scale"):
        through([low], BlockFormat("nv", "e2m1", (1, 1), "e4m3", global_scale=True))
