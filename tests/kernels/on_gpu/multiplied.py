"""Grouped GEMMs, experts and layers: every backend, format, packing and drop-in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from on_gpu.place import Place
from on_gpu.report import Check, equal, inside

from oracle import bounds
from oracle.blocks import dequantize, preset, quantize
from oracle.experts import grouped_gemm as reference
from oracle.layouts import nibbles
from oracle.layouts.gate_up import arrange
from oracle.layouts.padding import pad
from oracle.layouts.sm90_mixed import interleave_scales, interleave_weights
from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer
from refmoe.dropin.flashinfer import cutlass_fused_moe
from refmoe.kernels.launchers.backends import backend, names
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.gemm import Gemm, naive
from refmoe.kernels.launchers.operands import Matrix, Packed
from refmoe.kernels.launchers.prepare import pack
from refmoe.kernels.launchers.tactics import TACTICS
from refmoe.kernels.launchers.tensor_cores import tensor_cores

NUMERICS = Numerics()
#: Formats of x and of the weights (None: plain).
PAIRS: tuple[tuple[str | None, str | None], ...] = (
    (None, None), (None, "mxfp4"), (None, "mxfp8_e5m2"), (None, "nvfp4"),
    (None, "int4_group_32"), ("mxfp8_e4m3", "mxfp8_e4m3"), ("mxfp8_e4m3", "mxfp4"),
    ("fp8_group_128", "fp8_block_128"), ("fp8_token", "fp8_channel"),
    ("nvfp4", "nvfp4"), ("int8_token", "int8_channel"),
)  # fmt: skip


def multiplying(place: Place) -> Iterator[Check]:
    """Each pair of formats under each backend, against the oracle's bounds."""
    emulated = place.device.type == "cpu"
    experts_, rows, width, depth = (
        (8, 700, 264, 544) if place.large else (4, 70, 24, 96)
    )

    def problem(
        pair: tuple[str | None, str | None], dtype: torch.dtype
    ) -> tuple[Gemm, torch.Tensor]:
        x, w = (
            place.randn(*shape, seed=seed).clamp(-64, 64).to(dtype)
            for seed, shape in ((0, (rows + 3, depth)), (1, (experts_, width, depth)))
        )
        operands: list[Matrix] = [
            tensor if name is None else quantize(tensor, name)
            for tensor, name in zip((x, w), pair, strict=True)
        ]
        cuts = sorted((torch.arange(experts_ - 1) * 37 % rows).tolist())
        offsets = torch.tensor([0, *cuts, rows], device=place.device)
        seen = operands[0]
        exact = dequantize(seen) if isinstance(seen, Blocks) else x.double()
        return Gemm(*operands, offsets, torch.float32), exact

    def run(pair: tuple[str | None, str | None], name: str, dtype: torch.dtype) -> None:
        gemm, exact = problem(pair, dtype)
        got = backend(name)(gemm)
        tap = reference(bounds.exactly(exact), gemm.w, gemm.offsets, NUMERICS)  # type: ignore[arg-type]
        inside(got, bounds.rounded(tap, "fp32", NUMERICS))

    def alike(pair: tuple[str | None, str | None]) -> None:
        gemm, _ = problem(pair, torch.bfloat16)
        first = tensor_cores(gemm, TACTICS["small"])
        for name, tactic in TACTICS.items():
            equal(tensor_cores(gemm, tactic), first, name)

    def every_code(name: str, dtype: torch.dtype) -> None:
        made = quantize(torch.ones(1, 8, 32, device=place.device), name)
        numbers = torch.arange(256, device=place.device).view(1, 8, 32)
        count = 16 if made.format.element == "e2m1" else 256
        codes = (numbers % count).to(made.codes.dtype)
        w = Blocks(codes, torch.full_like(made.scales, 127), made.format)
        x = torch.eye(32, device=place.device, dtype=dtype)
        ends = torch.tensor([0, 32], device=place.device)
        gemm = Gemm(x, w, ends, torch.float32)
        equal(tensor_cores(gemm, TACTICS["small"]), naive(gemm))

    def every_scale() -> None:
        numbers = torch.arange(256, device=place.device)
        scales = numbers.view(1, 256, 1).to(torch.uint8)
        pairs = (numbers[:16] * 0x11).to(torch.uint8).repeat(1, 256, 1)
        x = torch.eye(32, device=place.device).bfloat16()
        ends = torch.tensor([0, 32], device=place.device)
        w = Packed(pairs, scales, preset("mxfp4"))
        gemm = Gemm(x, w, ends, torch.float32)
        equal(tensor_cores(gemm, TACTICS["small"]), naive(gemm))

    for name in ("mxfp4", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8"):
        for kind in (torch.bfloat16, torch.float16):
            yield f"every code {name} {kind}", lambda n=name, k=kind: every_code(n, k)
    yield "every packed code, every scale", every_scale
    chosen = ("naive", "mma_medium", "torch") if emulated else names()
    for pair in PAIRS[:: 4 if emulated else 1]:
        for name in chosen:
            yield f"{pair} {name}", lambda p=pair, n=name: run(p, n, torch.bfloat16)
        if not emulated:
            yield f"{pair} tactics agree", lambda p=pair: alike(p)
    for dtype in (torch.float16, torch.float32):
        for name in chosen:
            yield f"{dtype} {name}", lambda d=dtype, n=name: run((None, None), n, d)


def packing(place: Place) -> Iterator[Check]:
    """Prepared weights byte for byte, and layers that do not notice them."""
    layer = Layer(
        160, 96, 4, 2, activation=Activation(alpha=1.702, beta=1.0, limit=7.0),
        expert_bias=True,
    )  # fmt: skip

    def inputs() -> tuple[Params, torch.Tensor, torch.Tensor, torch.Tensor]:
        e, n, h, i = 4, layer.gate_up_rows, layer.hidden, layer.intermediate
        params = Params(
            quantize(place.randn(e, n, h).clamp(-8, 8), "mxfp4"),
            quantize(place.randn(e, h, i, seed=1).clamp(-8, 8), "mxfp4"),
            place.randn(e, n, seed=2).clamp(-4, 4).bfloat16(),
            place.randn(e, h, seed=3).clamp(-4, 4).bfloat16(),
        )
        x = place.randn(33, h, seed=4).clamp(-4, 4).bfloat16()
        weights = place.randn(33, 2, seed=5).abs().clamp(max=1)
        return params, x, place.ids(33, 2, 4), weights

    def bytes_(sm90: bool) -> None:
        params = inputs()[0]
        made = pack(
            params, layer, multiple=128, gate_first=False,
            packing="nibbles_sm90" if sm90 else "nibbles",
        )  # fmt: skip
        padded, _ = pad(params, layer, 128)
        for got, weight, order in (
            (made.gate_up, padded.gate_up, "up_gate"),
            (made.down, padded.down, "gate_up"),
        ):
            assert isinstance(got, Packed)
            assert isinstance(weight, Blocks)
            codes, scales = weight.codes, weight.scales
            if order == "up_gate":
                codes, scales = arrange(codes, "up_gate"), arrange(scales, "up_gate")
            codes = nibbles.pack(codes)
            if sm90:
                codes, scales = interleave_weights(codes), interleave_scales(scales)
            equal(got.codes, codes, "codes")
            equal(got.scales, scales, "scales")

    def unchanged(tactic: str, sm90: bool) -> None:
        params, x, ids, weights = inputs()
        want = experts(
            x, ids, weights, params, layer, tactic=tactic, prepared=pack(params, layer)
        )
        made = pack(
            params, layer, multiple=128, gate_first=False,
            packing="nibbles_sm90" if sm90 else "nibbles",
        )  # fmt: skip
        got = experts(x, ids, weights, params, layer, tactic=tactic, prepared=made)
        equal(got, want)

    def swapped_in() -> None:
        params, x, ids, weights = inputs()
        ids = ids.clamp_min(0)
        made = pack(
            params, layer, packing="nibbles_sm90", multiple=128, gate_first=False
        )
        assert isinstance(made.gate_up, Packed)
        assert isinstance(made.down, Packed)
        constants = {
            f"swiglu_{name}": torch.full(
                (4,), getattr(layer.activation, name), device=place.device
            )
            for name in ("alpha", "beta", "limit")
        }
        got = cutlass_fused_moe(
            x, ids, weights, made.gate_up.codes, made.down.codes, torch.bfloat16,
            [made.gate_up.scales, made.down.scales], made.gate_up_bias,
            made.down_bias, use_w4_group_scaling=True, **constants,
        )  # fmt: skip
        bare = replace(layer, expert_bias=True)
        equal(got, experts(x, ids, weights, params, bare, tactic="naive"))

    for sm90 in (False, True):
        yield f"bytes sm90={sm90}", lambda s=sm90: bytes_(s)
        yield f"naive sm90={sm90}", lambda s=sm90: unchanged("naive", s)
    yield "tensor cores", lambda: unchanged("mma_medium", False)
    yield "cutlass_fused_moe", swapped_in
