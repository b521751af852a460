"""What is claimed to be exact is bit-equal in every implementation; and no more is."""

from __future__ import annotations

import pytest
import torch

from oracle import bounds
from oracle.accumulators import accumulate
from oracle.formats import round_to
from oracle.numerics import ACCUMULATORS, Numerics
from oracle.trace import Tap
from tests.oracle.simulators import simulators

SIMULATORS = {simulator.name: simulator for simulator in simulators()}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coarse(
    rows: int, width: int, depth: int, largest: int, source: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Small integers times a power of two for each row, most of them zero."""
    operands = []
    for count in (rows, width):
        values = torch.randint(
            -largest, largest + 1, (count, depth), generator=source, dtype=torch.float64
        )
        values *= torch.rand(count, depth, generator=source) < 0.5
        operands.append(values * torch.exp2(torch.arange(count) % 5 - 2.0)[:, None])
    return operands[0], operands[1]


@pytest.mark.parametrize("name", SIMULATORS)
def test_matmul_claimed_exact_is_bit_equal(name):
    simulator, source = SIMULATORS[name], generator(1)
    claimed = 0
    for largest in (1, 3, 7):
        for depth in (16, 200, 1024):
            x, w = coarse(8, 8, depth, largest, source)
            tap = bounds.matmul(simulator.tap(x), simulator.tap(w), simulator.numerics)
            got = simulator.run(x, w, source)
            exact = tap.worst == 0
            claimed += int(exact.sum())
            assert torch.equal(got[exact], tap.value[exact])
            if tap.likely is not None:
                assert tap.likely[exact].eq(0).all()
    assert claimed >= 64


@pytest.mark.parametrize("name", sorted(ACCUMULATORS))
def test_matmul_exactness_ends_where_the_unit_does(name):
    """2^p + 1 quanta need a bit more than every unit has; a twentieth less do not."""
    unit, numerics = ACCUMULATORS[name], Numerics(accumulate=name)
    quanta, _ = bounds.quanta_limit(numerics)
    half = 2.0 ** (int(quanta).bit_length() // 2)
    rest = quanta / half
    for large, holds in ((rest, False), (round(rest * 0.95) - 0.0, True)):
        x, w = (
            torch.tensor([[half, 1.0]]).double(),
            torch.tensor([[large, 1.0]]).double(),
        )
        tap = bounds.matmul(Tap(x), Tap(w), numerics)
        assert tap.exact is holds
        if unit.group == 1 and name != "fp64":
            got = accumulate(x, w, unit, formats=("fp32", "fp32"))
            assert torch.equal(got, tap.value) is holds


def test_matmul_exactness_counts_quanta_of_rows_not_of_the_tensor():
    x = torch.tensor([[1.0, 2.0**-20], [1.0, 1.0]]).double()
    w = torch.tensor([[1024.0, 1024.0], [1.0, 2.0**-10]]).double()
    tap = bounds.matmul(Tap(x), Tap(w), Numerics())
    assert tap.worst.eq(0).tolist() == [[True, False], [True, True]]


def test_matmul_exactness_needs_certain_operands():
    x = torch.ones(2, 4).double()
    radius = torch.zeros(2, 4).double()
    radius[1, 2] = 2.0**-40
    tap = bounds.matmul(Tap(x, radius), Tap(x), Numerics())
    assert tap.worst.eq(0).tolist() == [[True, True], [False, False]]


def test_matmul_exactness_includes_the_bias_and_the_partials():
    ones = torch.ones(1, 512).double()
    for bias, exact in ((1.0, True), (2.0**-15, False)):
        tap = bounds.matmul(
            Tap(ones), Tap(ones), Numerics(), bias=torch.tensor([bias]).double()
        )
        assert tap.exact is exact
    partials = Numerics(split_k=4, partial="bf16")
    assert not bounds.matmul(Tap(ones), Tap(ones), partials).exact
    assert bounds.matmul(Tap(ones[:, :200]), Tap(ones[:, :200]), partials).exact


def test_matmul_exactness_ends_above_the_least_exponents():
    tiny = torch.full((1, 4), 2.0**-76).double()
    assert not bounds.matmul(Tap(tiny), Tap(tiny), Numerics()).exact
    flush = Numerics(subnormals="flush")
    small = torch.full((1, 4), 2.0**-64).double()
    assert bounds.matmul(Tap(small), Tap(small), Numerics()).exact
    assert not bounds.matmul(Tap(small), Tap(small), flush).exact


def test_quantum_is_the_lowest_set_bit_of_a_row():
    source = generator(2)
    values = torch.randint(-(2**40), 2**40, (64, 33), generator=source)
    values <<= torch.randint(0, 20, (64, 1), generator=source)
    scale = torch.exp2(torch.randint(-300, 300, (64, 1), generator=source).double())
    expected = [min(int(v) & -int(v) for v in row if int(v)) for row in values.tolist()]
    got = bounds.quantum(values.double() * scale)
    assert torch.equal(got, torch.tensor(expected).double() * scale[:, 0])


def test_exact_regime_stays_exact_through_the_layer():
    """Ternary x, FP4 weights, saturated gates, weights 1/4: radius 0 to the output."""
    source = generator(3)
    numerics = Numerics(gate_up="fp32", intermediate="bf16")
    grid = torch.tensor([0.0, 0.5, 1.0, 1.5, -0.5, -1.0, -1.5], dtype=torch.float64)

    def weights(rows: int, depth: int) -> Tap:
        picked = torch.randint(7, (rows, depth), generator=source)
        return bounds.exactly(grid[picked])

    x = bounds.exactly(torch.randint(-1, 2, (16, 64), generator=source))
    gates = torch.where(torch.rand(48, generator=source) < 0.5, 4096.0, -4096.0)
    gate = bounds.matmul(x, weights(48, 64), numerics, bias=gates)
    up = bounds.clamp(bounds.matmul(x, weights(48, 64), numerics), -32.0, 32.0)
    gate = bounds.clamp_max(gate, 32.0)
    alpha = bounds.constant(1.702, gate)
    assert not alpha.exact
    scaled = bounds.multiply(gate, alpha, "fp32", numerics)
    assert not scaled.exact
    sigmoid = bounds.sigmoid(scaled, numerics)
    assert sigmoid.exact
    assert set(sigmoid.value.unique().tolist()) == {0.0, 1.0}
    one = bounds.constant(1.0, up)
    up = bounds.add(up, one, "fp32", numerics)
    hidden = bounds.multiply(
        bounds.multiply(gate, sigmoid, "fp32", numerics), up, "fp32", numerics
    )
    hidden = bounds.rounded(hidden, "bf16", numerics)
    assert hidden.exact
    down = bounds.matmul(hidden, weights(32, 48), numerics)
    assert down.exact
    logits = bounds.exactly(torch.zeros(16, 4))
    scores = bounds.exp(logits, numerics)
    shares = bounds.divide(
        scores,
        bounds.total(scores, 1, "fp32", numerics).map(lambda t: t[:, None]),
        numerics,
    )
    assert shares.exact
    assert shares.value.eq(0.25).all()
    rows = bounds.multiply(
        Tap(down.value.expand(4, -1, -1).movedim(0, 1)),
        shares.map(lambda t: t[..., None]), "fp32", numerics,
    )  # fmt: skip
    out = bounds.rounded(bounds.total(rows, 1, "fp32", numerics), "bf16", numerics)
    assert out.exact
    assert torch.equal(out.value, round_to(down.value, "bf16"))
