"""Named arithmetics: the reference, IEEE, CUDA's fast math and released libraries.

Errors of CUDA's functions: CUDA C++ Programming Guide, "Mathematical Functions" (ulps
from the correctly rounded result, hence half an ulp more here); of the approximate
instructions: PTX ISA, "Floating Point Instructions". Where a library rounds was read in
the release named beside it.
"""

from __future__ import annotations

from oracle.numerics.declared import CORRECT, Elementary, Numerics, ulps

_ULP = 2.0**-23
#: Results below fp32's least normal value become zero.
_FLUSHED = 2.0**-126

# fp64 functions of an ulp or two.
_DOUBLE = Elementary(4 * 2.0**-52, 2.0**-1074, type="fp64")

# __expf: 2 + floor(1.173 |x|) ulps. __fdividef: 2 ulps, zero for divisors above 2^126.
_EXPF = Elementary(3.0 * _ULP, _FLUSHED, slope=1.173 * _ULP)
# 1 / (1 + __expf(-x)): the exponential, half an ulp for the sum, the division.
_SIGMOID_EXPF = Elementary(6.5 * _ULP, _FLUSHED, slope=1.173 * _ULP)
# tanh.approx.f32: 2^-11 relative.
_TANH_APPROX = Elementary(2.0**-11, _FLUSHED)

# ex2.approx.ftz.f32: 2^-22. Its argument x log2(e) is off by 1.5 half ulps, |x| of
# which reach the result.
_EX2 = Elementary(2.0**-22, _FLUSHED, slope=0.75 * _ULP)
# 1 / (1 + 2^(-x log2 e)) with div.full.f32, 2 ulps.
_SIGMOID_EX2 = Elementary(5.5 * _ULP, _FLUSHED, slope=0.75 * _ULP)

# 0.5 tanh(0.5 x) + 0.5: the tanh's 1.5 ulps and the sum's rounding stay absolute.
_SIGMOID_TANH = Elementary(0.0, 2.0**-23)

PRESETS: dict[str, Numerics] = {
    # Everything in float64, rounded once at the output.
    "reference": Numerics(
        accumulate="fp64", partial="fp64", router="fp64", weights="fp64",
        gate_up="fp64", activation="fp64", intermediate="fp64", down="fp64",
        weighted="fp64", combine="fp64", shared="fp64",
        exp=_DOUBLE, sigmoid=_DOUBLE, tanh=_DOUBLE, erf=_DOUBLE, log=_DOUBLE,
        sqrt=_DOUBLE, divide=_DOUBLE,
    ),
    # fp32 between the GEMMs' operands, any order, functions as libm and CUDA have them
    # without fast-math options (expf, tanhf, log1pf 1 ulp, erff 2, "/" and sqrtf 0).
    "ieee": Numerics(),
    # nvcc -use_fast_math: intrinsics and flushed subnormals.
    "cuda_fast": Numerics(
        exp=_EXPF, sigmoid=_SIGMOID_EXPF, tanh=_TANH_APPROX, divide=ulps(2.5),
        sqrt=ulps(1), log=Elementary(ulps(3).relative, 2.0**-21.4), subnormals="flush",
    ),
    # Triton: tl.exp and tl.sigmoid become ex2.approx, "/" becomes div.full.
    "triton": Numerics(exp=_EX2, sigmoid=_SIGMOID_EX2, divide=ulps(2.5)),
    # torch on CPU: fused multiply-adds in any order, SLEEF's functions of 1 ulp.
    "torch_cpu": Numerics(accumulate="ffma"),
    # transformers 5.23.0, eager experts: MixtralExperts.forward and its like. Linear
    # layers, silu, the products and index_add_ each round to bf16; weights stay fp32.
    "hf_bf16": Numerics(
        accumulate="ffma", gate_up="bf16", activation="bf16", intermediate="bf16",
        down="bf16", weighted="bf16", combine="bf16", combine_order="expert",
        shared="bf16", ties="any",
    ),
    # GptOssExperts.forward: biases are added to rounded products, and every operation
    # of _apply_gate rounds; softmax in bf16.
    "hf_gpt_oss_bf16": Numerics(
        accumulate="ffma", gemm="bf16", gate_up="bf16", activation="bf16",
        intermediate="bf16", down="bf16", weighted="bf16", combine="bf16",
        combine_order="expert", weights="bf16", shared="bf16", fused=False, ties="any",
    ),
    # The same modules in fp32.
    "hf_fp32": Numerics(
        accumulate="ffma", intermediate="fp32", combine_order="expert", ties="any"
    ),
    # triton_kernels, matmul with a fused swiglu, rows reduced in fp32
    # (swiglu_details/_swiglu.py, reduce.py at triton db4666f).
    "triton_kernels": Numerics(
        gate_up="none", intermediate="bf16", down="none", weighted="bf16",
        exp=_EX2, sigmoid=_SIGMOID_EX2, divide=ulps(2.5),
    ),
    # vLLM fused_moe_kernel (weights multiplied in, then stored as bf16), silu_and_mul
    # in bf16 (csrc/activation_kernels.cu), moe_sum (csrc/moe/moe_align_sum_kernels.cu):
    # top 2 to 4 add up in bf16 in slot order, others through at::sum in fp32.
    "vllm_triton": Numerics(
        gate_up="bf16", activation="bf16", down="none", weighted="bf16",
    ),
    "vllm_triton_top4": Numerics(
        gate_up="bf16", activation="bf16", down="none", weighted="bf16",
        combine="bf16", combine_order="slot",
    ),
    # FlashInfer CUTLASS (cutlass_fused_moe_kernels.cuh at fb28d72): bf16 between the
    # kernels, fp32 inside doGatedActivationKernel and finalizeMoeRoutingKernel.
    "flashinfer_cutlass": Numerics(
        gate_up="bf16", down="bf16", combine_order="slot",
    ),
    # FlashInfer's TensorRT-LLM routing: sigmoid_accurate (RoutingKernel.cuh).
    "flashinfer_trtllm": Numerics(sigmoid=_SIGMOID_TANH),
    # DeepSeek-V4 inference/model.py and kernel.py: FP8 GEMMs promoted every 128, linear
    # layers return bf16, Expert computes in fp32, MoE adds up in fp32 in expert order.
    "deepseek_v4": Numerics(
        accumulate="qgmma_hopper_promoted", gate_up="bf16", down="bf16",
        combine_order="expert", shared="bf16", divide=CORRECT,
    ),
}  # fmt: skip
