"""Our kernels under other libraries' signatures, against the oracle."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from on_gpu.place import Place
from on_gpu.report import Check, equal, inside

from oracle import bounds, omni
from oracle.blocks import dequantize, grouped_quantize, quantize
from oracle.experts import grouped_gemm
from oracle.layouts.gate_up import arrange
from oracle.layouts.scale_tiles import swizzle_128x4, swizzle_grouped
from oracle.moe import trace
from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer
from refmoe.dropin.flashinfer import cutlass_fused_moe
from refmoe.dropin.omni import triton_omni_router_func
from refmoe.dropin.sglang import (
    es_sm100_mxfp8_blockscaled_grouped_quant,
    es_sm100_mxfp8_blockscaled_moe_grouped_gemm,
)
from refmoe.kernels.launchers.prepare import pack


def dropping_in(place: Place) -> Iterator[Check]:
    """FlashInfer's fused MoE, plain and MXFP4; omni-moe's router; SGLang's MXFP8."""
    for name in ("bf16", "fp16"):
        yield f"cutlass_fused_moe {name}", lambda n=name: _fused(place, n)
    yield "cutlass_fused_moe mxfp4", lambda: _fused_mxfp4(place)
    yield "triton_omni_router_func", lambda: _router(place)
    yield "sglang mxfp8", lambda: _grouped(place)


def _plain(place: Place, *shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(place.device)


def _chosen(place: Place, tokens: int, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, count, (tokens, 2), generator=generator).int()
    weights = torch.rand(tokens, 2, generator=generator)
    return {"ids": ids.to(place.device), "weights": weights.to(place.device)}


def _within(
    got: torch.Tensor, layer: Layer, params: Params, x: torch.Tensor,
    chosen: dict[str, torch.Tensor],
) -> None:  # fmt: skip
    numerics = Numerics(intermediate=layer.dtype)
    given = {"ids": chosen["ids"].long(), "weights": chosen["weights"]}
    tap = trace(layer, params, x, None, numerics, given=given)["routed"]
    inside(got, bounds.rounded(tap, layer.dtype, numerics), "routed")


def _fused(place: Place, name: str) -> None:
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    count, hidden, width, tokens = 8, 192, 96, 150
    x = _plain(place, tokens, hidden, seed=1).to(dtype)
    up = _plain(place, count, 2 * width, hidden, seed=2).div(8).to(dtype)
    down = _plain(place, count, hidden, width, seed=3).div(8).to(dtype)
    bias, other = (_plain(place, count, n, seed=n) for n in (2 * width, hidden))
    limit = torch.linspace(0.5, 2, count, device=place.device)
    layer = Layer(
        hidden, width, count, 2, dtype=name, weights=name, activations=name,
        requantize=name,
    )  # fmt: skip
    chosen = _chosen(place, tokens, count)
    got = cutlass_fused_moe(
        x, chosen["ids"], chosen["weights"], arrange(up, "up_gate"), down, dtype, [],
        arrange(bias, "up_gate", -1), other, swiglu_limit=limit,
    )  # fmt: skip
    _within(got, layer, Params(up, down, bias, other, limit=limit), x, chosen)


def _fused_mxfp4(place: Place) -> None:
    count, hidden, width, tokens = 4, 192, 96, 70
    layer = Layer(
        hidden, width, count, 2, activation=Activation(alpha=1.702, beta=1.0, limit=7.0)
    )
    params = Params(
        quantize(_plain(place, count, 2 * width, hidden, seed=4), "mxfp4"),
        quantize(_plain(place, count, hidden, width, seed=5), "mxfp4"),
    )
    made = pack(params, layer, packing="nibbles_sm90", multiple=128, gate_first=False)
    constants = {
        f"swiglu_{name}": torch.full(
            (count,), getattr(layer.activation, name), device=place.device
        )
        for name in ("alpha", "beta", "limit")
    }
    x = _plain(place, tokens, hidden, seed=6).bfloat16()
    chosen = _chosen(place, tokens, count)
    got = cutlass_fused_moe(
        x, chosen["ids"], chosen["weights"], made.gate_up.codes, made.down.codes,  # type: ignore[union-attr]
        torch.bfloat16, [made.gate_up.scales, made.down.scales],  # type: ignore[union-attr]
        use_w4_group_scaling=True, **constants,
    )  # fmt: skip
    _within(got, layer, params, x, chosen)


def _router(place: Place) -> None:
    n, k = 64, 16
    x, y = (_plain(place, 33, n, seed=s).requires_grad_() for s in (7, 8))
    scores, ids = triton_omni_router_func(x, y, n, k)
    want = omni.omni_route(x.detach(), y.detach(), k, sum_type="fp32")
    equal(ids.long(), want.ids, "ids")
    equal(scores.double(), want.scores, "scores")
    weights = _plain(place, 33, k, seed=9)
    scores.backward(weights)
    numerics = Numerics(output="fp32")
    taps = omni.omni_route_backward(weights, ids.long(), n, numerics)
    for side, got, tap in zip("xy", (x.grad, y.grad), taps, strict=True):
        assert got is not None
        inside(got, tap, side)


def _grouped(place: Place) -> None:
    counts = torch.tensor([3, 0, 130, 5], dtype=torch.int32, device=place.device)
    ends = counts.cumsum(0).int()
    begin = ends - counts
    regions = torch.tensor([0, 128, 128, 384], dtype=torch.int32, device=place.device)
    depth, width, rows = 160, 40, int(ends[-1])
    x = _plain(place, rows, depth, seed=10).bfloat16()
    codes = torch.zeros(x.shape, dtype=torch.float8_e4m3fn, device=place.device)
    tiles = torch.full((512, 8), 7, dtype=torch.uint8, device=place.device)
    es_sm100_mxfp8_blockscaled_grouped_quant(x, counts, begin, regions, codes, tiles)
    offsets = torch.cat((begin, ends[-1:])).long()
    made = grouped_quantize(x, offsets, "mxfp8_e4m3:cublas_te")
    equal(codes.view(torch.uint8), made.codes, "codes")
    equal(tiles.reshape(-1), swizzle_grouped(made.scales, offsets).reshape(-1), "tiles")
    weights = quantize(_plain(place, 4, width, depth, seed=11), "mxfp8_e4m3:cublas_te")
    sfa = torch.stack([swizzle_128x4(own) for own in weights.scales]).reshape(4, -1, 8)
    got = es_sm100_mxfp8_blockscaled_moe_grouped_gemm(
        weights.codes.view(torch.float8_e4m3fn), codes, sfa, tiles, begin, regions,
        counts, torch.empty(0, device=place.device), torch.bfloat16,
    )  # fmt: skip
    numerics = Numerics()
    exact = bounds.exactly(dequantize(Blocks(made.codes, made.scales, made.format)))
    tap = grouped_gemm(exact, weights, offsets, numerics)
    inside(got, bounds.rounded(tap, "bf16", numerics), "y")
