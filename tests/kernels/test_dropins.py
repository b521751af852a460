"""Our kernels under the signatures of other libraries, as ports and by themselves."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import refmoe.dropin
from oracle.layouts.gate_up import arrange
from oracle.layouts.scale_tiles import swizzle_grouped
from oracle.moe import trace
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.shard import tensor_parallel
from oracle.spec import Layer
from refmoe.compare import compare
from refmoe.dropin.flashinfer import cutlass_fused_moe
from refmoe.dropin.omni import triton_omni_router_func
from refmoe.dropin.sglang import es_sm100_mxfp8_blockscaled_grouped_quant
from refmoe.kernels.launchers.grouped import grouped_quantize
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.problem import build
from refmoe.verdict import Kind
from refmoe.verify import Verifier

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
         "use_w4_group_scaling needs torch.uint8"),
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
        ({"input": torch.zeros(HIDDEN).bfloat16()}, ValueError,
         r"input has shape \(64,\); give 2 axes"),
        ({"swiglu_alpha": 1.702}, TypeError,
         "swiglu_alpha is a float; give a torch.Tensor"),
        ({"tp_rank": 2, "tp_size": 2}, ValueError, r"tp_rank=2 must lie in 0..tp_size"),
        ({"ep_rank": -1}, ValueError, r"ep_rank=-1 must lie in 0..ep_size - 1 = 0"),
        ({"activation_type": "Geglu", "swiglu_alpha": torch.ones(EXPERTS)}, ValueError,
         "activation_type=Geglu has no alpha; leave swiglu_alpha out"),
        ({"fc1_expert_weights": torch.zeros(EXPERTS, 2 * WIDTH, 32).bfloat16()},
         ValueError, r"fc1_expert_weights has shape .*, 32\); beside .*, 64\)"),
        ({"fc1_expert_weights": torch.zeros(EXPERTS, 33, HIDDEN).bfloat16()},
         ValueError, "fc1_expert_weights has 33 rows, .*; give 2I"),
        ({"fc2_expert_weights": torch.zeros(EXPERTS, HIDDEN, 8).bfloat16()},
         ValueError, r"fc2_expert_weights has shape .*, 8\); beside .* must have"),
        ({"fc2_expert_weights": torch.zeros(HIDDEN, WIDTH).bfloat16()},
         ValueError, "fc2_expert_weights has shape .*; give 3 axes"),
        ({"fc1_expert_biases": torch.zeros(EXPERTS, WIDTH)}, ValueError,
         "fc1_expert_biases has shape"),
        ({"swiglu_limit": torch.ones(EXPERTS + 1)}, ValueError,
         r"swiglu_limit has shape \(5,\); beside the other tensors .* \(4,\)"),
        ({**_codes(torch.int8), "quant_scales": [torch.ones(EXPERTS, 3)] * 2},
         ValueError, r"quant_scales\[0\] has shape \(4, 3\); beside"),
        ({"fc1_expert_weights": torch.zeros(EXPERTS, 128, 64).byte(),
          "fc2_expert_weights": torch.zeros(EXPERTS, 128, 64).byte(),
          "quant_scales": [torch.ones(EXPERTS, 3).byte()] * 2,
          "use_w4_group_scaling": True}, ValueError,
         "quant_scales of 12 bytes do not go with"),
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


def test_cutlass_fused_moe_fills_a_buffer_and_rounds_once(emulated: None) -> None:
    """Catches a result rounded to the type of x first, and a limit of 0 as none."""
    x, (ids, scales) = randn(TOKENS, HIDDEN).bfloat16(), routed()
    weights = randn(EXPERTS, 2 * WIDTH, HIDDEN), randn(EXPERTS, HIDDEN, WIDTH)
    given = (x, ids, scales, *(weight.bfloat16() for weight in weights))
    buffer = torch.empty(TOKENS, HIDDEN)
    once = cutlass_fused_moe(*given, torch.float32, None, output=buffer)
    assert once is buffer
    whole = cutlass_fused_moe(*given, torch.bfloat16, [])
    assert torch.equal(once.bfloat16(), whole)
    assert not torch.equal(once, whole.float())
    inf, zero = torch.full((EXPERTS,), torch.inf), torch.zeros(EXPERTS)
    unheld = cutlass_fused_moe(*given, torch.bfloat16, [], swiglu_limit=inf)
    assert torch.equal(unheld, whole)
    assert not cutlass_fused_moe(*given, torch.bfloat16, [], swiglu_limit=zero).any()


def test_triton_omni_router_gives_ids_no_gradient(emulated: None) -> None:
    x, y = (randn(5, 8, seed=s).requires_grad_() for s in (1, 2))
    scores, ids = triton_omni_router_func(x, y, 8, 6)
    assert scores.requires_grad
    assert not ids.requires_grad
    scores.sum().backward()
    assert x.grad is not None
    assert int(x.grad.sum()) == 5 * 6
    with pytest.raises(ValueError, match="num_expert_sqrt=9 needs that many"):
        triton_omni_router_func(x, y, 9, 6)
    with pytest.raises(TypeError, match=r"logits_x is torch.int32; convert it to one"):
        triton_omni_router_func(x.int(), y, 8, 6)
    with pytest.raises(ValueError, match=r"logits_y has shape \(8,\); give 2 axes"):
        triton_omni_router_func(x, y[0], 8, 6)
    with pytest.raises(TypeError, match=r"per_token=4.0 is no whole .* int in 1..64"):
        triton_omni_router_func(x, y, 8, 4.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"per_token=65 lies outside 1..64"):
        triton_omni_router_func(x, y, 8, 65)


def test_sglang_quantises_into_the_regions_it_is_told(emulated: None) -> None:
    """Catches padding of a region left as it was, and regions in another's place."""
    counts = torch.tensor([3, 0, 130, 5], dtype=torch.int32)
    ends = counts.cumsum(0).int()
    regions = torch.tensor([384, 256, 0, 256], dtype=torch.int32)
    x = randn(int(ends[-1]), 160).bfloat16()
    codes = torch.zeros(x.shape, dtype=torch.float8_e4m3fn)
    tiles = torch.full((512, 8), 7, dtype=torch.uint8)
    starts = ends - counts
    es_sm100_mxfp8_blockscaled_grouped_quant(x, counts, starts, regions, codes, tiles)
    offsets = torch.cat((starts, ends[-1:]))
    want = grouped_quantize(x, offsets, "mxfp8_e4m3:cublas_te")
    assert torch.equal(codes.view(torch.uint8), want.codes)
    for expert, region in enumerate(regions.tolist()):
        own = want.scales[starts[expert] : ends[expert]]
        alone = swizzle_grouped(own, torch.tensor([0, len(own)]))
        found = tiles.flatten()[region * 8 :][: len(alone)]
        assert torch.equal(found, alone)
    with pytest.raises(ValueError, match=r"quant_output is .*; give e4m3"):
        es_sm100_mxfp8_blockscaled_grouped_quant(
            x, counts, starts, regions, codes[:3], tiles
        )


MXFP8 = (
    "weights=mxfp8_e4m3 activations=mxfp8_e4m3:cublas_te "
    "requantize=mxfp8_e4m3:cublas_te"
)
FP8 = "weights=fp8_block_128 activations=fp8_group_128 requantize=fp8_group_128"


@pytest.mark.parametrize(
    ("library", "line"),
    [
        ("flashinfer", "experts H=96 I=40 E=4 expert_bias=true local=1/2"),
        ("flashinfer", "experts H=64 I=48 E=4 dtype=fp16 weights=int8_channel "
         "activations=fp16 requantize=fp16 slots=twice"),
        ("flashinfer", "experts H=128 I=128 E=4 regime=heavy " + FP8),
        ("flashinfer", "moe model=gpt-oss-20b H=160 I=96 E=4 constants=own"),
        ("omni", "omni_route E=64 dtype=fp32 memory=strided"),
        ("omni", "omni_route E=64 regime=ties"),
        ("omni", "omni_route_backward E=64 slots=twice memory=transposed"),
        ("sglang", "grouped_quantize H=160 E=4 format=mxfp8_e4m3:cublas_te slots=tail"),
        ("sglang", "grouped_gemm H=96 I=40 E=4 weights=mxfp8_e4m3 regime=exact"),
        ("sglang", "experts H=96 I=64 E=4 local=1/2 " + MXFP8),
        ("sglang", "experts H=96 I=64 E=4 activation.limit=1.0 regime=heavy " + MXFP8),
    ],
)  # fmt: skip
def test_dropins_are_ports_that_the_judge_finds_right(
    library: str, line: str, host_compiler: str
) -> None:
    """Catches gate for up, a scale of another row, tile or rank, sums in fp32."""
    port = load(f"refmoe.dropin.emulated:{library}")
    record = Verifier(lenient=False).check(port, parse(f"{line} T=9 k=2 seed=3"))
    assert record.kind in (Kind.BIT_EQUAL, Kind.WITHIN), record.log


@pytest.mark.parametrize(
    ("library", "line", "reason"),
    [
        ("flashinfer", "experts weights=nvfp4", "weights=nvfp4; there is bf16, fp16"),
        ("flashinfer", "experts dtype=fp16", "plain weights have the type of x, fp16"),
        ("flashinfer", "experts weights=mxfp4 requantize=fp16",
         "requantize=fp16; beside weights=mxfp4 it is bf16"),
        ("flashinfer", "experts I=96 " + FP8, "H=64 is no multiple of 128, whole"),
        ("flashinfer", "experts activation.kind=softcap", "softcap is no Activation"),
        ("flashinfer", "experts activation.kind=geglu_erf activation.limit=1.0",
         "geglu_erf takes no limit and no beta"),
        ("flashinfer", "experts E=5 local=1/2", "5 experts are no equal ranks"),
        ("flashinfer", "experts weight_on=input", "weights meet the output alone"),
        ("flashinfer", "experts routing.zero_experts=2", "ids are those of experts"),
        ("flashinfer", "experts routing.scale=2.0 routing.scale_on=sum", "of the sum"),
        ("flashinfer", "moe shared.intermediate=64", "shared experts are no part"),
        ("flashinfer", "experts memory=strided", "there is contiguous, offset"),
        ("omni", "omni_route dtype=fp64", "dtypes=fp64; there is bf16, fp16, fp32"),
        ("sglang", "grouped_quantize format=mxfp8_e4m3", "there is mxfp8_e4m3:cublas"),
        ("sglang", "grouped_gemm", "weights=bf16; there is mxfp8_e4m3"),
        ("sglang", "grouped_gemm weights=mxfp8_e4m3", "which keeps that of exact"),
        ("sglang", "experts expert_bias=true " + MXFP8, "the grouped GEMM adds none"),
        ("sglang", "experts weight_on=intermediate " + MXFP8, "meet the output alone"),
        ("sglang", f"experts {MXFP8.rpartition(' ')[0]}", "is quantised as x is"),
    ],
)  # fmt: skip
def test_dropins_say_what_their_signatures_cannot(
    library: str, line: str, reason: str
) -> None:
    op, _, words = line.partition(" ")
    sizes = {"T": 3, "H": 64, "I": 64, "E": 4, "k": 2}
    given = " ".join(f"{n}={s}" for n, s in sizes.items() if f"{n}=" not in words)
    answer = load(f"refmoe.dropin:{library}").unsupported(
        parse(f"{op} {given} {words}")
    )
    assert answer is not None
    assert reason in answer


def test_sglang_refuses_x_that_its_format_does_not_hold(host_compiler: str) -> None:
    port = load("refmoe.dropin.emulated:sglang")
    case = parse("grouped_gemm T=9 H=96 I=40 E=4 k=2 weights=mxfp8_e4m3 regime=exact")
    inputs = dict(build(case).inputs)
    inputs["x"][5, 7] = 1.0625
    with pytest.raises(NotImplementedError, match="values that mxfp8_e4m3 does not"):
        port.ops["grouped_gemm"](**inputs)


def test_dropins_emulated_are_the_same_ports() -> None:
    for name in refmoe.dropin.LIBRARIES:
        own = load(f"refmoe.dropin:{name}")
        emulated = load(f"refmoe.dropin.emulated:{name}")
        assert set(own.ops) == set(emulated.ops)
        assert set(own.attributes) == set(emulated.attributes)
        assert (own.device, emulated.device) == ("cuda", "cpu")
    with pytest.raises(AttributeError, match="no attribute 'vllm'"):
        refmoe.dropin.vllm  # noqa: B018
    with pytest.raises(ValueError, match="'vllm' is not in"):
        load("refmoe.dropin.emulated:vllm")
