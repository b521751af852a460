"""What becomes of the operands of a GEMM: activations quantised inside a layer, weights
decoded from blocks, subnormal numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from oracle.blocks import dequantize, preset, quantize
from oracle.formats import round_to
from oracle.params import Blocks
from oracle.spec import BlockFormat, Rounding, ScaleRule
from refmoe.case import Case
from refmoe.generator import Stream
from refmoe.identify.box import Box, Silent, bits, exactly, plain_case, without_weights
from refmoe.identify.contest import Contest
from refmoe.identify.dots import SUMMANDS, Dots
from refmoe.identify.sums import Sums
from refmoe.identify.wires import CONSTANT, PIECES, Wires, found_weight, wired_with

_FORMATS = ("mxfp8_e4m3", "mxfp4")
_SIZE = 128
_EXPERTS = 2


def quantising(box: Box) -> Wires:
    """A wired layer that quantises x and its intermediate.

    Raises Silent if the port computes no such layer.
    """
    sizes = {"T": 4, "H": _SIZE, "I": _SIZE, "E": _EXPERTS, "k": _EXPERTS}
    ops = [op for op in ("experts", "moe") if op in box.port.ops]

    def candidates() -> Iterator[Case]:
        for op in ops:
            for name in _FORMATS:
                case = plain_case(op, "bf16", sizes)
                yield case.but(activations=name, requantize=name)

    case = box.case("quantising", candidates(), lambda case: wired_with(box, case))
    return Wires(box, case)


def seen(wired: Wires, format: BlockFormat, point: str) -> Contest:
    """The scale rule and rounding with which `point` meets its GEMM, by what comes out.

    point: "activations", of x, or "requantize", of the intermediate; `format` is the
    declared one.
    """
    layer, free = wired.layer, wired.probes
    step = format.block[1]
    first = step if point == "activations" else 0
    last = _SIZE if point == "activations" else free // step * step
    values = _values(format, first, last)
    down = torch.zeros(_EXPERTS, _SIZE, _SIZE, dtype=torch.float64)
    place = torch.arange(first, min(last, free))
    beta = layer.activation.beta
    up = torch.zeros(free, _SIZE, dtype=torch.float64)
    gate = torch.zeros_like(up)
    gate[:, 0] = CONSTANT
    x = torch.zeros(_SIZE, dtype=torch.float64)
    x[0] = 1.0
    if point == "activations":
        x[first:] = values[first:]
        up[place, place] = 1.0
        down[0, place, place] = 1.0 / CONSTANT
        down[0, place, _SIZE - PIECES] = -beta / CONSTANT
    else:
        up[place, 0] = values[place] / CONSTANT - beta
        down[0, place, place] = 1.0
    out = wired.run(down, x=x, gate=gate, up=up)[0] / found_weight(wired.case)
    got = out[place]

    def given(row: int) -> str:
        block = int(place[row]) // step * step
        peak = float(values[block : block + step].abs().max())
        return (
            f"{point} {bits(float(values[place[row]]))} in a block up to {bits(peak)}"
        )

    found = Contest(
        wired.case.op, (f"{point}.scale_rule", f"{point}.rounding"), got, given
    )
    kinds: tuple[Rounding, ...] = ("nearest_even", "half_away", "toward_zero")
    rules: tuple[ScaleRule, ...] = ("floor", "ceil", "even", "rceil")
    for rule in rules:
        for rounding in kinds:
            form = replace(format, scale_rule=rule, rounding=rounding)
            want = dequantize(quantize(values[None], form))[0]
            found.add((rule, rounding), want[place])
    return found


def _values(format: BlockFormat, first: int, last: int) -> torch.Tensor:
    """f64[128] in blocks whose peaks tell the scale rules apart: above what is rounded
    up everywhere, above the largest value only, and below it.

    Tiny numbers beside them are a multiple of the least value or not.
    """
    step = format.block[1]
    values = torch.zeros(_SIZE, dtype=torch.float64)
    for block in range(first // step, last // step):
        size = Stream(block, "seen").integers((step,), 16, 31).double() / 32.0
        sign = 1.0 - 2.0 * Stream(block, "seen sign").integers((step,), 0, 1).double()
        power = Stream(block, "power").integers((step,), 0, 4)
        power[step // 2 :] += 12 if format.element == "e4m3" else 0
        part = size * sign * torch.exp2(-power.double())
        part[0] = (1.9375, 1.84375, 1.1875)[block % 3]
        values[block * step : (block + 1) * step] = part
    return values


def decoded(box: Box, sums: Sums) -> Contest:
    """The type of block-scaled weights once they are decoded, from one with fp32
    scales; raises Silent if the port's grouped GEMM takes none."""
    if "grouped_gemm" not in box.port.ops:
        raise Silent("the port has no op that multiplies block-scaled weights")
    name = "fp8_block_128"
    sizes = {"T": 8, "H": 256, "I": 32, "E": 1, "k": 1}
    case = plain_case("grouped_gemm", "bf16", sizes).but(weights=name)
    if not box.supports(case):
        raise Silent(f"the port supports no {name} weights")
    code = Stream(6, "codes").integers((64, 256), 8, 119)
    codes = (code + 128 * Stream(6, "sign").integers((64, 256), 0, 1)).to(torch.uint8)
    scale = 1.0 + Stream(6, "scale").integers((1, 2), 1, (1 << 20) - 1) * 2.0**-20
    blocks = Blocks(codes[None], scale.float()[None], preset(name))
    exact = dequantize(blocks)[0]
    # Each column: one weight, less what 16 bits hold of it, by powers of two of x.
    x = torch.zeros(64, 256, dtype=torch.float64)
    row = torch.arange(64)
    x[row, row] = 1.0
    pair = 128 + row
    x[row, pair] = -round_to(exact[row, row] / exact[row, pair], "bf16")
    offsets = torch.tensor([0, 64])
    given = {"x": exactly(x, "bf16"), "weights": blocks, "offsets": offsets}
    case = case.but(T=64)
    y = box.call(case, without_weights(case.layer), given)["y"].double()[row, row]

    def text(place: int) -> str:
        terms = [
            f"{bits(float(exact[place, k]))}*{bits(float(x[place, k]))}"
            for k in (place, 128 + place)
        ]
        return f"{name} weights and x: {' + '.join(terms)}"

    found = Contest("grouped_gemm", ("dequantized",), y, text, 2.0**-8)
    for kind in dict.fromkeys((sums.compute, "bf16", "fp16")):
        weight = round_to(exact, kind)
        # Partial sums, where there are any, hold one of the two products each.
        terms = sums.stored(x * weight)
        found.add((kind,), terms[row, row] + terms[row, pair])
    return found


def fma(dots: Dots) -> Contest:
    """Whether a product reaches the sum unrounded: a b - fl(a b), the product last.

    It takes operands of 24 bits, and places of which some are added in that order.
    """
    a, b = 1.0 + 2.0**-13 + 2.0**-23, 1.0 + 2.0**-12 + 2.0**-23
    rounded = float(round_to(torch.tensor([a * b], dtype=torch.float64), "fp32"))
    x = torch.ones(SUMMANDS, dtype=torch.float64)
    x[2::2] = a
    places = 2 + 2 * Stream(9, "places").permutations(16, SUMMANDS // 2 - 2)[:, :2]
    w = torch.zeros(16, SUMMANDS, dtype=torch.float64)
    row = torch.arange(16)
    w[row, places[:, 0]], w[row, places[:, 1] + 1] = b, -rounded
    got = dots(x, w)[:, None].abs().amax(0)
    found = Contest(
        dots.op, ("fma",), got,
        lambda place: f"{bits(a)}*{bits(b)} - {bits(rounded)} at 16 pairs of places",
        2.0**-20,
    )  # fmt: skip
    found.add((True,), torch.full_like(got, abs(a * b - rounded)))
    found.add((False,), torch.zeros_like(got))
    return found


def subnormals(dots: Dots) -> Contest:
    """Whether subnormal weights, tokens and (of a GEMM) results are kept."""
    dtype = dots.case.layer.dtype
    if dtype not in ("bf16", "fp32"):
        raise Silent(f"{dtype} has no subnormal numbers below fp32's")
    x = torch.zeros(SUMMANDS, dtype=torch.float64)
    x[0], x[5], x[6], x[7] = 1.0, 2.0**100, 2.0**-130, 2.0**-70
    w = torch.zeros(3, SUMMANDS, dtype=torch.float64)
    w[0, 5], w[1, 6], w[2, 7] = 2.0**-130, 2.0**100, 2.0**-60
    rows = 3 if dots.wires is None else 2
    got = torch.cat([dots(x, w[row : row + 1]) for row in range(rows)])
    want = (x * w).sum(1)[:rows]
    names = ("a subnormal weight", "a subnormal token", "a subnormal result")

    def given(place: int) -> str:
        return f"{names[place]}: {bits(float(want[place]))}"

    found = Contest(dots.op, ("subnormals",), got, given)
    found.add(("keep",), want)
    for lost in range(1, 1 << rows):
        mask = torch.tensor([bool(lost >> row & 1) for row in range(rows)])
        found.add(("flush",), want.where(~mask, 0.0))
    return found
