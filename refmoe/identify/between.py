"""Where numbers are rounded between the GEMMs: GEMM1, activation, intermediate.

Each free hidden element gets a gate and an up of its own. Two numbers of eight bits,
made of constants, are taken from it in GEMM2, so that its low bits reach the output.
"""

from __future__ import annotations

from itertools import product

import torch

from oracle.formats import round_to
from oracle.numerics import Numerics
from oracle.spec import BlockFormat
from refmoe.generator import Stream
from refmoe.identify.behind import types
from refmoe.identify.box import Silent, bits
from refmoe.identify.contest import READING, Contest
from refmoe.identify.sums import Sums
from refmoe.identify.wires import CONSTANT, PIECES, Wires, found_weight, pieces

FIELDS = ("gate_up", "activation", "intermediate")
#: Relative error that any evaluation of a sigmoid stays below.
_CURVE = 2.0**-20


def contest(wired: Wires, sums: Sums, gemm: str, declared: Numerics | None) -> Contest:
    """Candidates for FIELDS beside what the port returns, `gemm` being known.

    A declared narrow activation may skip the roundings between its operations.

    Raises Silent where the intermediate is quantised, or the sums keep too few bits.
    """
    layer, compute = wired.layer, sums.compute
    if isinstance(layer.requantize, BlockFormat):
        raise Silent(f"the intermediate is quantised to {layer.requantize.name}")
    if sums.bits < 20:
        raise Silent(f"sums of {sums.bits + 1} bits do not let the low bits through")
    gate, up, bias = _drawn(wired)
    alpha, beta = layer.activation.alpha, layer.activation.beta
    curved = torch.sigmoid(alpha * gate) if layer.activation.kind == "swiglu" else None
    if curved is None:
        gate = gate.where(gate >= CONSTANT, CONSTANT)
        curved = torch.ones_like(gate)
    curved = curved.where(gate < CONSTANT, 1.0)
    count = 3 if compute == "fp64" else 2
    exact = gate * curved * (up + bias + beta)
    taken = torch.zeros(*exact.shape, PIECES, dtype=torch.float64)
    rest = exact
    for place in range(count):
        taken[:, place] = round_to(rest, "bf16")
        rest = rest - taken[:, place]
    got = _run(wired, gate, up, bias, taken)
    reference = taken.sum(-1)

    def given(place: int) -> str:
        return (
            f"gate {bits(float(gate[place]))}, up {bits(float(up[place]))}"
            + (f" + bias {bits(float(bias[place]))}" if bias[place] else "")
            + f", less {bits(float(reference[place]))}"
        )

    # Partial sums end where the constants' own does, or before.
    apart = torch.zeros(wired.probes, dtype=torch.bool)
    if sums.splits > 1:
        run = -(-layer.intermediate // sums.splits)
        apart = torch.arange(wired.probes) // run < sums.splits - 1

    def left(hidden: torch.Tensor) -> torch.Tensor:
        each = sums.stored(hidden) - sums.stored(reference)
        return torch.where(apart, each, sums.stored(hidden - reference))

    found = Contest(wired.case.op, FIELDS, got, given, READING)
    saturated = gate >= CONSTANT
    for first, second, third in product(types(compute), repeat=3):
        seen = round_to(sums.stored(up), compute if gemm == "none" else gemm)
        seen = round_to(round_to(seen + bias, compute), first)
        seen = round_to(round_to(seen, second) + beta, second)
        # Only a narrow type shows which operations of the activation round.
        forms = ("each", "at once") if second in ("bf16", "fp16") else ("each",)
        if declared is not None and declared.fused and declared.activation == second:
            forms = (*forms, "fused")
        for form in forms:
            ends = []
            for error in (-_CURVE, _CURVE):
                sigmoid = (curved * (1.0 + error)).where(~saturated, 1.0)
                if form == "each":
                    sigmoid = round_to(sigmoid, second)
                swish = gate * sigmoid
                if form != "fused":
                    swish = round_to(swish, second)
                hidden = round_to(round_to(swish * seen, second), third)
                ends.append(left(hidden))
            low, high = torch.minimum(*ends), torch.maximum(*ends)
            found.add((first, second, third), low, high)
    return found


def _drawn(wired: Wires) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gates of eight bits, half of them saturated; ups of 18 bits; biases of eight.

    Shapes: f64[I - PIECES] each
    """
    count = wired.probes

    def drawn(name: str, low: int, high: int) -> torch.Tensor:
        return Stream(2, name).integers((count,), low, high).double()

    place = torch.arange(count)
    saturated = drawn("saturated", 64, 127)
    curved = drawn("curved", 128, 255) * torch.exp2(drawn("power", -8, -7))
    gate = torch.where(place % 2 == 0, saturated, curved)
    sign = 1.0 - 2.0 * drawn("sign", 0, 1)
    up = sign * drawn("up", 1 << 17, (1 << 18) - 1) * 2.0**-11
    bias = torch.zeros(count, dtype=torch.float64)
    if wired.layer.expert_bias:
        own = place % 4 < 2
        up = torch.where(own, sign * drawn("short", 128, 255) * 2.0**-1, up)
        bias = torch.where(own, drawn("bias", 128, 255) * 2.0**-8, bias)
    return gate, up, bias


def _run(
    wired: Wires,
    gate: torch.Tensor,
    up: torch.Tensor,
    bias: torch.Tensor,
    taken: torch.Tensor,
) -> torch.Tensor:
    layer, free = wired.layer, wired.probes
    gates = torch.zeros(free, layer.hidden, dtype=torch.float64)
    gates[:, 0] = gate
    ups = torch.zeros_like(gates)
    ups[:, :PIECES] = pieces(up)
    constants = torch.zeros(layer.experts, layer.hidden, PIECES, dtype=torch.float64)
    constants[0, :free] = -taken
    down = wired.constants(constants)
    place = torch.arange(free)
    down[0, place, place] = 1.0
    out = wired.run(
        down, gate=gates, up=ups, up_bias=bias if layer.expert_bias else None
    )
    return out[0, :free] / found_weight(wired.case)
