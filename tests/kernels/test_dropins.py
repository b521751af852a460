"""Our kernels under the signatures of other libraries, against the oracle's layouts."""

from __future__ import annotations

import inspect
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
from oracle.shard import tensor_parallel
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


def _codes(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        "fc1_expert_weights": torch.zeros(EXPERTS, 2 * WIDTH, HIDDEN).to(dtype),
        "fc2_expert_weights": torch.zeros(EXPERTS, HIDDEN, WIDTH).to(dtype),
    }


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
    once = cutlass_fused_moe(
        x, ids, scales, *given[:2], torch.float32, [], given[4], down_bias,
        swiglu_limit=limit,
    )  # fmt: skip
    assert torch.equal(once.to(dtype), want)
    numerics = Numerics(intermediate=name, output="fp32")
    chosen = {"ids": ids.long(), "weights": scales}
    for rank, part in enumerate((slice(0, 2), slice(2, 4))):
        half = cutlass_fused_moe(
            x, ids, scales, given[0][part], down[part], torch.float32, None,
            given[4][part], down_bias[part], swiglu_limit=limit[part], ep_size=2,
            ep_rank=rank, enable_alltoall=True,
        )  # fmt: skip
        own = Params(
            up[part], down[part], bias[part], down_bias[part], limit=limit[part]
        )
        local = (part.start, part.stop)
        taps = trace(whole, own, x, None, numerics, given=chosen, local=local)
        assert half.dtype == torch.float32
        assert not compare("out", taps["out"], half, numerics).kind.failed
    buffer = torch.empty(TOKENS, HIDDEN)
    assert cutlass_fused_moe(x, ids, scales, *given[:2], torch.float32, None,
                             output=buffer) is buffer  # fmt: skip


def test_cutlass_fused_moe_adds_the_last_bias_in_one_rank_only(emulated: None) -> None:
    """Catches a bias that each rank of tensor parallelism adds before the sum."""
    x, (ids, _) = randn(TOKENS, HIDDEN).bfloat16(), routed()
    gate_up, down = randn(EXPERTS, 2 * WIDTH, HIDDEN), randn(EXPERTS, HIDDEN, WIDTH)
    params = Params(gate_up.bfloat16(), down.bfloat16(), down_bias=randn(4, HIDDEN))
    numerics = Numerics(output="fp32")
    # token_final_scales=None: every choice counts once.
    chosen = {"ids": ids.long(), "weights": torch.ones(TOKENS, 2)}
    for rank, shard in enumerate(tensor_parallel(layer(), params, 2)):
        own: Any = shard.params
        got = cutlass_fused_moe(
            x, ids, None, arrange(own.gate_up, "up_gate"), own.down.contiguous(),
            torch.float32, None, None, params.down_bias, tp_size=2, tp_rank=rank,
        )  # fmt: skip
        tap = trace(shard.layer, own, x, None, numerics, given=chosen)["out"]
        assert not compare("out", tap, got, numerics).kind.failed


def test_cutlass_fused_moe_takes_int8_with_a_scale_for_each_row(emulated: None) -> None:
    x, (ids, scales) = randn(TOKENS, HIDDEN).half(), routed()
    up = quantize(randn(EXPERTS, 2 * WIDTH, HIDDEN), "int8_channel")
    down = quantize(randn(EXPERTS, HIDDEN, WIDTH), "int8_channel")
    types = dict.fromkeys(("dtype", "activations", "requantize"), "fp16")
    got = cutlass_fused_moe(
        x, ids, scales, arrange(up.codes, "up_gate"), down.codes, torch.float16,
        [arrange(up.scales, "up_gate")[..., 0], down.scales[..., 0]],
    )  # fmt: skip
    numerics = Numerics(intermediate="fp16")
    chosen = {"ids": ids.long(), "weights": scales}
    model = layer(weights=up.format, **types)
    tap = trace(model, Params(up, down), x, None, numerics, given=chosen)["out"]
    assert not compare("out", tap, got, numerics).kind.failed


def test_cutlass_fused_moe_has_the_signature_it_stands_in_for() -> None:
    """Catches an argument swallowed unread, and one that stands elsewhere."""
    names = (
        "input token_selected_experts token_final_scales fc1_expert_weights "
        "fc2_expert_weights output_dtype quant_scales fc1_expert_biases "
        "fc2_expert_biases input_sf swiglu_alpha swiglu_beta swiglu_limit tp_size "
        "tp_rank ep_size ep_rank cluster_size cluster_rank output enable_alltoall "
        "use_deepseek_fp8_block_scale use_w4_group_scaling use_mxfp8_act_scaling "
        "min_latency_mode use_packed_weights use_wfp4afp8_humming tune_max_num_tokens "
        "enable_pdl activation_type swizzled_input_sf use_fused_finalize profile_ids "
        "workspace_buffer"
    ).split()
    parameters = inspect.signature(cutlass_fused_moe).parameters
    assert list(parameters) == names
    kinds = {parameter.kind for parameter in parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


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
        ({"cluster_size": 2}, NotImplementedError, "cluster_size=2 has no kernel"),
        ({"cluster_rank": 1}, NotImplementedError, "leave it at 0"),
        ({"use_mxfp8_act_scaling": True}, NotImplementedError, "act_scaling=True has"),
        ({"use_packed_weights": True}, NotImplementedError, "packed_weights=True has"),
        ({"use_wfp4afp8_humming": True}, NotImplementedError, "humming=True has no"),
        ({"profile_ids": [1, 2]}, NotImplementedError, r"profile_ids=\[1, 2\] has no"),
        ({"quant_scales": [torch.ones(1)] * 4}, ValueError,
         "weights of input's type takes 0 quant_scales; there are 4"),
        ({"use_w4_group_scaling": True}, NotImplementedError,
         "use_w4_group_scaling must be torch.uint8"),
        ({**_codes(torch.uint8), "use_w4_group_scaling": True}, ValueError,
         "use_w4_group_scaling takes 2 quant_scales; there are 0"),
        ({**_codes(torch.uint8), "use_w4_group_scaling": True,
          "quant_scales": [torch.ones(1)] * 2}, ValueError,
         "interleaved weights of 96 x 128 are no multiple of 64 x 128"),
        ({**_codes(torch.int8), "quant_scales": None}, ValueError,
         "int8 weights takes 2 quant_scales; there are 0"),
        (_codes(torch.float8_e4m3fn), NotImplementedError,
         "fc1 of torch.float8_e4m3fn and fc2 of torch.float8_e4m3fn have no kernel"),
        ({"use_w4_group_scaling": True, "use_deepseek_fp8_block_scale": True},
         ValueError, "two kinds of weights; set one of them"),
        ({"input": torch.zeros(TOKENS, HIDDEN).to(torch.float8_e4m3fn)},
         NotImplementedError, "input of torch.float8_e4m3fn has no kernel here"),
        ({"output_dtype": torch.float64}, TypeError, "output_dtype=torch.float64 has"),
        ({"output": torch.empty(TOKENS, HIDDEN)}, ValueError,
         r"output is torch.float32 \(7, 64\); give torch.bfloat16 \(7, 64\)"),
        ({"tp_rank": 2, "tp_size": 2}, ValueError, r"tp_rank=2 must lie in 0..tp_size"),
        ({"ep_rank": -1}, ValueError, r"ep_rank=-1 must lie in 0..ep_size - 1 = 0"),
        ({"activation_type": "Geglu", "swiglu_alpha": torch.ones(EXPERTS)}, ValueError,
         "activation_type=Geglu has no alpha; leave swiglu_alpha out"),
    ],
)  # fmt: skip
def test_cutlass_fused_moe_refuses(
    given: dict[str, Any], error: type[Exception], message: str, emulated: None
) -> None:
    ids, scales = routed()
    weights = randn(EXPERTS, 2 * WIDTH, HIDDEN), randn(EXPERTS, HIDDEN, WIDTH)
    options = {
        "input": randn(TOKENS, HIDDEN).bfloat16(),
        "fc1_expert_weights": weights[0].bfloat16(),
        "fc2_expert_weights": weights[1].bfloat16(), "output_dtype": torch.bfloat16,
        "quant_scales": None, **given,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        cutlass_fused_moe(
            token_selected_experts=ids, token_final_scales=scales, **options
        )


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
