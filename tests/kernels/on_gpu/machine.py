"""What only the machine can tell: older targets, denormals, offsets past 2^31."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from on_gpu.launching import all_equal, calls, some_inputs
from on_gpu.place import Place
from on_gpu.report import Check, equal, inside

from oracle import blocks, experts
from oracle.bounds import exactly, rounded
from oracle.numerics import Numerics
from oracle.params import Blocks
from refmoe.kernels import compiler
from refmoe.kernels.launchers.backends import grouped_gemm
from refmoe.kernels.launchers.combine import combine_rows
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.permute import gather
from refmoe.kernels.launchers.quantize import quantize

NUMERICS = Numerics()


def older_targets(place: Place) -> Iterator[Check]:
    """The same bits from PTX of older architectures, which the driver translates."""
    before = os.environ.get("REFMOE_TARGET")
    inputs = some_inputs(place, 0)
    want = {name: call() for name, call in calls(place, inputs).items()}
    # expf and its kin compile to other instructions there.
    inexact = ("route", "activate", "activate and quantise", "omni experts", "experts")
    try:
        for target in ("compute_80", "compute_86", "compute_89"):
            os.environ["REFMOE_TARGET"] = target
            for name, call in calls(place, inputs).items():
                if name not in inexact:
                    yield (
                        f"{name} {target}",
                        lambda c=call, w=want[name]: all_equal(c(), w),
                    )
                else:
                    yield f"{name} {target} runs", call
    finally:
        os.environ.pop("REFMOE_TARGET", None)
        if before is not None:
            os.environ["REFMOE_TARGET"] = before


def denormals(place: Place) -> Iterator[Check]:
    """Nothing is flushed, and no compiler cache hands out code that does."""

    def kept() -> None:
        codes = torch.arange(256, dtype=torch.uint8, device=place.device).repeat(4, 1)
        scales = torch.arange(32, dtype=torch.uint8, device=place.device).view(4, 8) % 3
        given = Blocks(codes, scales, blocks.preset("mxfp8_e4m3"))
        want = blocks.dequantize(given).float()
        finite = want[want.isfinite() & (want != 0)]
        assert bool((finite.abs() < 2.0**-126).any()), "no denormals to lose"
        equal(dequantize(given), want)

    def told_apart() -> None:
        text = "__global__ void k(float* x) { x[0] = x[1] / x[2] + x[3]; }"
        plain = compiler.compile_text(text, ("k",), "sm_90a").code
        before = compiler.OPTIONS
        try:
            compiler.OPTIONS = (*before, "-ftz=true")
            flushed = compiler.compile_text(text, ("k",), "sm_90a").code
        finally:
            compiler.OPTIONS = before
        assert plain != flushed, "the compiler's own cache answered"
        assert plain == compiler.compile_text(text, ("k",), "sm_90a").code

    yield "subnormal scales and codes", kept
    yield "flushing code has another image", told_apart


def far_offsets(place: Place) -> Iterator[Check]:
    """One tensor of more than 2^31 elements, checked at both ends."""
    columns = 8192
    rows = 2**31 // columns + 64

    def run(name: str) -> None:
        x = torch.zeros(rows, columns, dtype=torch.bfloat16, device=place.device)
        ends = torch.tensor([0, 1, rows // 2, rows - 2, rows - 1], device=place.device)
        x[ends] = place.randn(len(ends) + 1, columns, seed=8)[1:].to(x.dtype)
        made = quantize(x, name)
        want = blocks.quantize(x[ends], name)
        equal(made.codes[ends], want.codes, "codes")
        equal(made.scales[ends], want.scales, "scales")
        del x
        value = dequantize(made, dtype=torch.bfloat16)
        equal(value[ends], blocks.dequantize(want).bfloat16(), "values")

    def rearranged() -> None:
        x = torch.zeros(rows, columns, dtype=torch.bfloat16, device=place.device)
        x[-3:] = place.randn(4, columns, seed=9)[1:].to(x.dtype)
        order = torch.arange(rows - 1, -1, -1, dtype=torch.int32, device=place.device)
        moved = gather(x, order, 1)
        equal(moved[:3], x[-3:].flip(0), "gathered")
        del x
        weights = torch.ones(rows, 1, device=place.device)
        back = combine_rows(moved, order[:, None].contiguous(), weights)
        equal(back[-3:], moved[:3].flip(0), "combined")

    yield "mxfp8_e4m3", lambda: run("mxfp8_e4m3")
    yield "fp8_token", lambda: run("fp8_token")
    yield "gather and combine", rearranged
    # The result, x, and the weights in turn have more than 2^31 elements.
    for name, sizes in (
        ("result", (2**20 + 64, 2, 2048, 64)),
        ("x", (2**20 + 64, 2, 64, 2048)),
        ("weights", (64, 5, 2**14, 2**15 - 64)),
    ):
        for tactic in (None, "naive"):
            yield (
                f"grouped GEMM, {name}, {tactic or 'tensor cores'}",
                lambda s=sizes, t=tactic: multiplied(place, *s, t),
            )


def multiplied(
    place: Place, rows: int, count: int, width: int, depth: int, tactic: str | None
) -> None:
    """A few rows and columns, the ends among them, judged; no other has a value."""
    at = torch.tensor([0, 1, rows // 2, rows - 2, rows - 1])
    columns = torch.tensor([0, 1, width // 2, width - 2, width - 1])
    own = place.randn(len(at) + 1, depth, seed=3)[1:].bfloat16()
    part = place.randn(count * len(columns) + 1, depth, seed=4)[1:].bfloat16()
    part = part.view(count, len(columns), depth)
    x = torch.zeros(rows, depth, dtype=own.dtype, device=place.device)
    w = torch.zeros(count, width, depth, dtype=own.dtype, device=place.device)
    x[at.to(place.device)] = own
    w[:, columns.to(place.device)] = part
    edges = torch.arange(count + 1) * rows // count
    got = grouped_gemm(x, w, edges.to(place.device), tactic=tactic)
    del x, w
    edges = torch.searchsorted(at, edges)
    tap = experts.grouped_gemm(exactly(own.cpu()), part.cpu(), edges, NUMERICS)
    sample = got[at.to(place.device)][:, columns.to(place.device)].cpu()
    inside(sample, rounded(tap, "bf16", NUMERICS))
    assert int(got.count_nonzero()) == int(sample.count_nonzero()), "elsewhere"
