"""Where numbers are rounded behind GEMM2: its result, the weighted rows, their sum.

Experts return sums of pieces that no 16-bit type holds; the last one cancels what the
others add up to. Every combination of types is computed beside the port.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import product

import torch

from oracle.formats import round_to
from refmoe.generator import Stream
from refmoe.identify.box import bits
from refmoe.identify.combining import Combining
from refmoe.identify.contest import Contest
from refmoe.identify.sums import Sums
from refmoe.identify.tree import Tree
from refmoe.identify.wires import CONSTANT, PIECES, Wires, found_weight, pieces

FIELDS = ("gemm", "down", "weighted", "combine", "weight_on")
#: Weights that multiply without a rounding of their own.
_WEIGHTS = (1.0, 1.25, 1.5, 1.75)
_ROUNDS = 2


def types(compute: str) -> tuple[str, ...]:
    """The types that a stage may round to, where its arithmetic is in `compute`."""
    return (compute, *(name for name in ("fp32", "bf16", "fp16") if name != compute))


def contest(wired: Wires, combining: Combining, sums: Sums, output: str) -> Contest:
    """Candidates for FIELDS beside what the port returns, rounded to `output`."""
    layer, compute = wired.layer, sums.compute
    runs = [_run(wired, number, sums) for number in range(_ROUNDS)]
    y, bias, weights, got = (torch.cat(part, -1) for part in zip(*runs, strict=True))
    biased = ("none", *types(compute)[1:]) if layer.expert_bias else ("none",)
    sides = ("output", "intermediate") if layer.activation.beta == 0 else ("output",)

    def given(place: int) -> str:
        terms = [
            f"{bits(float(w))}*({bits(float(v))}{_plus(float(b))})"
            for w, v, b in zip(
                weights[:, place], y[:, place], bias[:, place], strict=True
            )
        ]
        return "experts returning " + " + ".join(terms)

    found = Contest(wired.case.op, FIELDS, got, given)
    kinds = types(compute)
    steps: dict[tuple[str, str, str, str], torch.Tensor] = {}
    for gemm, down, side in product(biased, kinds, sides):
        step = sums.stored(y if side == "output" else round_to(weights * y, compute))
        step = step if gemm == "none" else round_to(step, gemm)
        step = round_to(round_to(step + bias, compute), down)
        for weighted in kinds:
            steps[gemm, down, weighted, side] = step
            if side == "output":
                row = round_to(weights * step, compute)
                steps[gemm, down, weighted, side] = round_to(row, weighted)
    rows = torch.stack(list(steps.values()), 1)
    for combine in kinds:
        for total in _totals(rows, combining, combine):
            outs = round_to(round_to(total, compute), output)
            for (gemm, down, weighted, side), out in zip(steps, outs, strict=True):
                found.add((gemm, down, weighted, combine, side), out)
    return found


def shared(wired: Wires, sums: Sums, points: Mapping[str, str]) -> Contest:
    """The type of the shared expert's result, beside an expert that cancels most of it.

    `points` are the types found of "gemm", "down" and "combine".
    """
    h, compute = wired.layer.hidden, sums.compute
    width = 36 if compute == "fp64" else min(18, sums.bits - 1)
    own = 16.0 * numbers("shared", (h,), width)
    taken = round_to(-own, "bf16")
    share = found_weight(wired.case)
    down = torch.zeros(wired.layer.experts, h, PIECES, dtype=torch.float64)
    down[0, :, 0] = taken / share
    got = wired.run(wired.constants(down), shared=pieces(own) / CONSTANT)[0]

    def given(place: int) -> str:
        return f"shared {bits(float(own[place]))}, routed {bits(float(taken[place]))}"

    found = Contest(wired.case.op, ("shared",), got, given)
    step = sums.stored(own)
    step = step if points["gemm"] == "none" else round_to(step, points["gemm"])
    for kind in types(compute):
        value = round_to(round_to(step, points["down"]), kind)
        total = round_to(round_to(taken, points["combine"]) + value, points["combine"])
        found.add((kind,), round_to(round_to(total, compute), wired.output))
    return found


def _plus(value: float) -> str:
    return f" + {bits(value)}" if value else ""


def _run(
    wired: Wires, number: int, sums: Sums
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the experts return, the bias, the weights and the layer's output.

    Shapes: y, bias, weights f64[k, H]; output f64[H]
    """
    layer = wired.layer
    k, h = layer.top_k, layer.hidden
    width = 36 if sums.compute == "fp64" else min(18, sums.bits - 1)
    y = 16.0 * numbers(f"behind {number}", (k, h), width)
    bias = torch.zeros(k, h, dtype=torch.float64)
    if layer.expert_bias:
        drawn = Stream(number, "bias").integers((k, h), -127, 127).double()
        bias = drawn / 8.0
    weights = torch.full((k, 1), found_weight(wired.case), dtype=torch.float64)
    if wired.weighted and number:
        weights = torch.tensor(_WEIGHTS, dtype=torch.float64).repeat(k)[:k, None]
    # The last expert takes away what the others leave, as far as its bits reach.
    rest = -(weights[:-1] * (y + bias)[:-1]).sum(0) / weights[-1]
    y[-1] = round_to(rest, "bf16") if number % 2 else round_to(rest, "fp32")
    y[-1] = _cut(y[-1] - bias[-1], width)
    down = torch.zeros(layer.experts, h, PIECES, dtype=torch.float64)
    down[:k] = pieces(y)
    biases = torch.zeros(layer.experts, h, dtype=torch.float64)
    biases[:k] = bias
    out = wired.run(
        wired.constants(down),
        down_bias=biases if layer.expert_bias else None,
        weights=weights.T.expand(4, -1) if wired.weighted else None,
        ids=torch.arange(k).expand(4, -1),
    )
    return y, bias, weights.expand(-1, h), out[0]


@lru_cache(maxsize=64)
def numbers(name: str, shape: tuple[int, ...], width: int) -> torch.Tensor:
    """f64 numbers of `width` bits and both signs, from 1 to 2 in magnitude."""
    found = torch.ones(shape, dtype=torch.float64)
    for place in range(1, width):
        bit = Stream(place, name).integers(shape, 0, 1)
        found += bit.double() * 2.0**-place
    return found * (1.0 - 2.0 * Stream(0, name).integers(shape, 0, 1).double())


def _cut(values: torch.Tensor, width: int) -> torch.Tensor:
    """The leading `width` bits of each value."""
    grain = torch.exp2(torch.frexp(values).exponent.double() - width)
    return (values / grain).trunc() * grain


def _totals(
    rows: torch.Tensor, combining: Combining, kind: str
) -> Iterator[torch.Tensor]:
    """The sums [C, H] of rows [k, C, H] in the order found, each addition rounded.

    With and without a rounding of the first row, as where a sum begins at zero.
    """
    tree = combining.trees[0]
    if tree is None or not combining.deterministic:
        tree = 0
        for row in range(1, len(rows)):
            tree = (tree, row)
    for first in (None, 0, 1):
        yield _total(tree, rows, kind, first)


def _total(
    tree: Tree, rows: torch.Tensor, kind: str, first: int | None
) -> torch.Tensor:
    """The sum; of the two rows that are added first, `first` is rounded before that."""
    if isinstance(tree, int):
        return rows[tree]
    terms = [_total(child, rows, kind, first) for child in tree]
    if first is not None and all(isinstance(child, int) for child in tree):
        terms[first] = round_to(terms[first], kind)
    value = terms[0]
    for term in terms[1:]:
        value = round_to(value + term, kind)
    return value
