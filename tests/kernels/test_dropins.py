"""Our kernels under the signatures of other libraries, against the oracle's layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracle import bounds, omni
from oracle.blocks import dequantize, grouped_quantize, preset, quantize
from oracle.experts import grouped_gemm
from oracle.layouts.gate_up import arrange
from oracle.layouts.scale_tiles import swizzle_128x4, swizzle_grouped
from oracle.moe import trace
from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer
from refmoe.compare import compare
from refmoe.dropin.flashinfer import cutlass_fused_moe
from refmoe.dropin.omni import triton_omni_router_func
from refmoe.dropin.sglang import (
    es_sm100_mxfp8_blockscaled_grouped_quant,
    es_sm100_mxfp8_blockscaled_moe_grouped_gemm,
)
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.prepare import pack

HIDDEN, WIDTH, EXPERTS, TOKENS = 64, 48, 4, 7


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator)


def routed() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, EXPERTS, (TOKENS, 2), generator=generator)
    return ids.int(), torch.rand(TOKENS, 2, generator=generator)


def layer(**changes: Any) -> Layer:
    return Layer(HIDDEN, WIDTH, EXPERTS, 2, **changes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_cutlass_fused_moe_takes_up_before_gate(
    dtype: torch.dtype, emulated: None
) -> None:
    x = randn(TOKENS, HIDDEN).to(dtype)
    up, down = randn(EXPERTS, 2 * WIDTH, HIDDEN), randn(EXPERTS, HIDDEN, WIDTH)
    up, down = up.to(dtype), down.to(dtype)
    bias, down_bias = randn(EXPERTS, 2 * WIDTH), randn(EXPERTS, HIDDEN)
    ids, scales = routed()
    limit = torch.linspace(0.5, 2, EXPERTS)
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    params = Params(up, down, bias, down_bias, limit=limit)
    whole = layer(dtype=name, weights=name, activations=name, requantize=name)
    want = experts(x, ids, scales, params, whole)
    given = (arrange(up, "up_gate"), down, dtype, [], arrange(bias, "up_gate", -1))
    got = cutlass_fused_moe(
        x, ids, scales, *given, down_bias, swiglu_limit=limit, tune_max_num_tokens=64
    )
    assert torch.equal(got, want)
    numerics = Numerics(intermediate=name)
    chosen = {"ids": ids.long(), "weights": scales}
    for rank, part in enumerate((slice(0, 2), slice(2, 4))):
        half = cutlass_fused_moe(
            x, ids, scales, given[0][part], down[part], torch.float32, None,
            given[4][part], down_bias[part], swiglu_limit=limit[part], ep_size=2,
            ep_rank=rank,
        )  # fmt: skip
        own = Params(
            up[part], down[part], bias[part], down_bias[part], limit=limit[part]
        )
        local = (part.start, part.stop)
        taps = trace(whole, own, x, None, numerics, given=chosen, local=local)
        # A rank rounds its part to the layer's type.
        tap = bounds.rounded(taps["routed"], name, numerics)
        assert half.dtype == torch.float32
        assert not compare("routed", tap, half, numerics).kind.failed
    buffer = torch.empty(TOKENS, HIDDEN)
    assert cutlass_fused_moe(x, ids, scales, *given[:2], torch.float32, None,
                             output=buffer) is buffer  # fmt: skip


def test_cutlass_fused_moe_takes_interleaved_mxfp4(emulated: None) -> None:
    x, (ids, scales) = randn(TOKENS, HIDDEN).bfloat16(), routed()
    activation = Activation(alpha=1.702, beta=1.0, limit=7.0)
    model = Layer(HIDDEN, 64, EXPERTS, 2, activation=activation)
    params = Params(
        quantize(randn(EXPERTS, 128, HIDDEN), "mxfp4"),
        quantize(randn(EXPERTS, HIDDEN, 64), "mxfp4"),
    )
    made = pack(params, model, packing="nibbles_sm90", multiple=128, gate_first=False)
    constant = {
        name: torch.full((EXPERTS,), getattr(model.activation, name))
        for name in ("alpha", "beta", "limit")
    }
    got = cutlass_fused_moe(
        x, ids, scales, made.gate_up.codes, made.down.codes, torch.bfloat16,  # type: ignore[union-attr]
        [made.gate_up.scales, made.down.scales], use_w4_group_scaling=True,  # type: ignore[union-attr]
        **{f"swiglu_{name}": tensor for name, tensor in constant.items()},
    )  # fmt: skip
    want = experts(x, ids, scales, params, model, tactic="naive")
    assert torch.equal(got, want)


def test_cutlass_fused_moe_takes_fp8_tiles(emulated: None) -> None:
    x, (ids, scales) = randn(TOKENS, 128).bfloat16(), routed()
    group = preset("fp8_group_128")
    model = Layer(
        128, 128, EXPERTS, 2, weights=preset("fp8_block_128"), activations=group,
        requantize=group,
    )  # fmt: skip
    gate_up = quantize(randn(EXPERTS, 256, 128), "fp8_block_128")
    down = quantize(randn(EXPERTS, 128, 128), "fp8_block_128")
    want = experts(x, ids, scales, Params(gate_up, down), model)
    got = cutlass_fused_moe(
        x, ids, scales, arrange(gate_up.codes, "up_gate").view(torch.float8_e4m3fn),
        down.codes.view(torch.float8_e4m3fn), torch.bfloat16,
        [arrange(gate_up.scales, "up_gate"), down.scales],
        use_deepseek_fp8_block_scale=True,
    )  # fmt: skip
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"min_latency_mode": True}, NotImplementedError, "min_latency_mode=True has"),
        ({"input_sf": torch.ones(1)}, NotImplementedError, "input_sf=.* has no kernel"),
        ({"activation_type": "Situ"}, NotImplementedError, "'Situ' has no kernel here"),
        ({"activation_type": 3}, NotImplementedError, "or the member of that name"),
        ({"quant_scales": [torch.ones(1)] * 4}, NotImplementedError,
         "4 quant_scales without a mode"),
        ({"use_w4_group_scaling": True}, ValueError, "takes 2 quant_scales; there are"),
    ],
)  # fmt: skip
def test_cutlass_fused_moe_refuses(
    given: dict[str, Any], error: type[Exception], message: str, emulated: None
) -> None:
    ids, scales = routed()
    weights = randn(EXPERTS, 2 * WIDTH, HIDDEN), randn(EXPERTS, HIDDEN, WIDTH)
    options = {"quant_scales": None, **given}
    with pytest.raises(error, match=message):
        cutlass_fused_moe(
            randn(TOKENS, HIDDEN).bfloat16(), ids, scales, *weights,
            output_dtype=torch.bfloat16, **options,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_triton_omni_router_has_gradients(dtype: torch.dtype, emulated: None) -> None:
    n, k = 8, 6
    x, y = (randn(5, n, seed=s).to(dtype).requires_grad_() for s in (1, 2))
    scores, ids = triton_omni_router_func(x, y, n, k)
    name = "fp32" if dtype == torch.float32 else "bf16"
    want = omni.omni_route(x.detach(), y.detach(), k, sum_type=name)
    assert torch.equal(ids.long(), want.ids)
    assert torch.equal(scores.double(), want.scores)
    weights = randn(5, k).to(dtype)
    scores.backward(weights)
    numerics = Numerics(output=name)
    taps = omni.omni_route_backward(weights, ids.long(), n, numerics)
    for side, got, tap in zip("xy", (x.grad, y.grad), taps, strict=True):
        assert got is not None
        assert not compare(side, tap, got, numerics).kind.failed
    with pytest.raises(ValueError, match="num_expert_sqrt=9 needs that many"):
        triton_omni_router_func(x, y, 9, k)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sglang_mxfp8_quantises_and_multiplies(
    dtype: torch.dtype, emulated: None
) -> None:
    counts = torch.tensor([3, 0, 130, 5], dtype=torch.int32)
    begin = torch.cat((torch.zeros(1), counts.cumsum(0)[:-1])).int()
    regions = torch.tensor([0, 128, 128, 384], dtype=torch.int32)
    depth, width = 160, 40
    x = randn(int(counts.sum()), depth).to(dtype)
    codes = torch.zeros(x.shape, dtype=torch.float8_e4m3fn)
    tiles = torch.full((512, 8), 7, dtype=torch.uint8)
    es_sm100_mxfp8_blockscaled_grouped_quant(x, counts, begin, regions, codes, tiles)
    offsets = torch.cat((begin, begin[-1:] + counts[-1:]))
    want = grouped_quantize(x, offsets.long(), "mxfp8_e4m3:cublas_te")
    assert torch.equal(codes.view(torch.uint8), want.codes)
    swizzled = swizzle_grouped(want.scales, offsets.long())
    assert torch.equal(tiles.reshape(-1), swizzled.reshape(-1))

    weights = quantize(randn(4, width, depth), "mxfp8_e4m3:cublas_te")
    sfa = torch.stack([swizzle_128x4(own) for own in weights.scales]).reshape(4, -1, 8)
    got = es_sm100_mxfp8_blockscaled_moe_grouped_gemm(
        weights.codes.view(torch.float8_e4m3fn), codes, sfa, tiles, begin, regions,
        counts, torch.empty(0), dtype,
    )  # fmt: skip
    numerics = Numerics()
    exact = dequantize(Blocks(want.codes, want.scales, want.format))
    tap = grouped_gemm(bounds.exactly(exact), weights, offsets.long(), numerics)
    tap = bounds.rounded(tap, "bf16" if dtype == torch.bfloat16 else "fp16", numerics)
    assert tap.worst is not None
    assert got.dtype == dtype
    assert bool(((got.double() - tap.value).abs() <= tap.worst).all())
    with pytest.raises(ValueError, match=r"quant_output is .*; give e4m3"):
        es_sm100_mxfp8_blockscaled_grouped_quant(
            x, counts, begin, regions, codes[:3], tiles
        )
