"""Named block formats and where each comes from.

A name is `family` or `family:recipe`. The bare family is the format's own
specification; a recipe is what one implementation does, where its bytes differ or its
name is what people look for. Scale rules are those of `oracle.blocks.powers`.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from oracle.spec import BlockFormat, ScaleRule

#: Largest scale that still lets 512 steps of E4M3 through: 1 / (448 * 512).
_VLLM_TOKEN_FLOOR = 2.0**-9
_FP32_TINY = 2.0**-126

#: OCP Microscaling v1.0: blocks of 32 along the reduction axis, E8M0 scales.
_MX = {
    "mxfp4": "e2m1",
    "mxfp6_e2m3": "e2m3",
    "mxfp6_e3m2": "e3m2",
    "mxfp8_e4m3": "e4m3",
    "mxfp8_e5m2": "e5m2",
    "mxint8": "mxint8",
}


_RULES: tuple[ScaleRule, ...] = ("floor", "ceil", "even", "rceil")


def _mx(family: str) -> dict[str, BlockFormat]:
    """One MX family under every rule, and as its implementations quantise it."""
    base = BlockFormat(family, _MX[family])
    found = {"": base, "ocp": base}
    for rule in _RULES:
        found[rule] = replace(base, scale_rule=rule)
        # torchao's ScaleCalculationMode; a NaN makes its block NaN.
        found[f"torchao_{rule}"] = replace(base, scale_rule=rule, nonfinite="propagate")
    # cuBLAS, cuDNN and Transformer Engine: conversions that saturate.
    found["cublas_te"] = replace(base, scale_rule="rceil", nonfinite="saturate")
    # OpenAI's triton_kernels: ROUND_UP by default; exponents of subnormals become 1.
    found["triton_kernels"] = replace(
        base, scale_rule="rceil", minimum_byte=1, zero_scale=2.0**-127, ragged=True
    )
    # Microsoft's microxcaling with its default rounding "nearest".
    found["microxcaling"] = replace(
        base, rounding="half_away", keep_negative_zero=False, nonfinite="propagate",
        ragged=True,
    )  # fmt: skip
    # AMD Quark and AITER.
    found["quark"] = replace(base, scale_rule="even", nonfinite="propagate")
    return found


def _deepgemm(base: BlockFormat) -> BlockFormat:
    """amax raised to 1e-4, x times the scale's reciprocal, short last blocks."""
    return replace(base, amax_floor=1e-4, apply="reciprocal", ragged=True)


def _vendor_mx() -> dict[str, BlockFormat]:
    """MX recipes of one family only."""
    mxfp4 = BlockFormat("mxfp4", "e2m1", scale_rule="rceil")
    mxfp8 = BlockFormat("mxfp8_e4m3", "e4m3", scale_rule="rceil")
    return {
        # DeepGEMM's per_token_cast_to_fp4: ties toward zero, no negative zero.
        "mxfp4:deepgemm": replace(
            _deepgemm(mxfp4), rounding="half_toward_zero", keep_negative_zero=False
        ),
        "mxfp8_e4m3:deepgemm": _deepgemm(mxfp8),
        "mxfp8_e4m3:modelopt": replace(mxfp8, ragged=True),
        # vLLM's PyTorch fallback: 2^floor(log2 amax), without the element's exponent.
        "mxfp8_e4m3:vllm_torch": replace(
            mxfp8, scale_rule="floor", maximum=1.0, amax_floor=_FP32_TINY
        ),
    }


def _nvfp4() -> dict[str, BlockFormat]:
    """NVFP4 by recipe; see `oracle.blocks.nvfp4`."""
    base = BlockFormat(
        "nvfp4", "e2m1", (1, 16), "e4m3", "divide",
        global_scale=True, apply="reciprocal",
    )  # fmt: skip
    flashinfer = replace(base, recipe="flashinfer")
    return {
        "nvfp4": base,
        "nvfp4:te": replace(base, recipe="te"),
        "nvfp4:te_2d": replace(base, recipe="te", block=(16, 16)),
        "nvfp4:flashinfer": flashinfer,
        "nvfp4:vllm": flashinfer,
        "nvfp4:torchao": replace(base, recipe="torchao"),
        "nvfp4:torchao_single": replace(base, recipe="torchao", global_scale=False),
        "nvfp4:modelopt": replace(
            base, recipe="modelopt", apply="divide", zero_scale=1.0
        ),
    }


def _fp8() -> dict[str, BlockFormat]:
    """FP8 (E4M3) with one scale per tile, group, row or tensor."""
    found: dict[str, BlockFormat] = {}
    # DeepSeek-V3 report, section 3.3: weights in 128 x 128 tiles, activations in groups
    # of 128 along the reduction axis. Its own kernel divides by a zero block's scale of
    # 0; here that block decodes to zeros.
    for family, block in (("fp8_block_128", (128, 128)), ("fp8_group_128", (1, 128))):
        fp32 = BlockFormat(family, "e4m3", block, "fp32", "divide", ragged=True)
        ue8m0 = replace(fp32, scale="e8m0", scale_rule="rceil")
        rounded = replace(fp32, scale_rule="rceil")
        found |= {
            family: fp32,
            f"{family}:fp32": fp32,
            f"{family}:ue8m0": ue8m0,
            f"{family}:ue8m0_fp32": rounded,
            f"{family}:deepgemm": _deepgemm(fp32),
            f"{family}:deepgemm_ue8m0": _deepgemm(ue8m0),
            # vLLM's and SGLang's Triton kernels divide by the scale ...
            f"{family}:vllm": replace(fp32, amax_floor=1e-10),
            f"{family}:vllm_ue8m0": replace(rounded, amax_floor=1e-10),
            # ... SGLang's CUDA kernel multiplies amax by 1/448 and x by 448/amax.
            f"{family}:sglang": replace(
                fp32, scale_rule="multiply", apply="inverse", amax_floor=1e-10
            ),
            # transformers' finegrained FP8 weights.
            f"{family}:transformers": replace(
                fp32, scale_rule="invert", apply="inverse", zero_scale=1.0
            ),
        }
    token = BlockFormat("fp8_token", "e4m3", (1, 0), "fp32", "divide")
    tensor = BlockFormat("fp8_tensor", "e4m3", (0, 0), "fp32", "divide")
    return found | {
        "fp8_token": token,
        "fp8_channel": replace(token, name="fp8_channel"),
        "fp8_token:vllm": replace(token, amax_floor=_VLLM_TOKEN_FLOOR),
        "fp8_tensor": tensor,
        "fp8_tensor:vllm": replace(tensor, apply="reciprocal"),
    }


def _integers() -> dict[str, BlockFormat]:
    """INT8 with a scale per row, INT4 with a scale per group."""
    token = BlockFormat("int8_token", "int8", (1, 0), "fp32", "divide")
    found = {
        "int8_token": token,
        "int8_channel": replace(token, name="int8_channel"),
        # SGLang's and vLLM's Triton kernel: round half away, x times 127 / amax.
        "int8_token:sglang": replace(
            token, rounding="half_away", apply="inverse", amax_floor=1e-10
        ),
        "int8_token:torchao": replace(token, apply="reciprocal"),
    }
    for size in (32, 128):
        family = f"int4_group_{size}"
        group = BlockFormat(family, "int4", (1, size), "fp32", "divide")
        found |= {
            family: group,
            f"{family}:bf16": replace(group, scale="bf16"),
            # compressed-tensors and torchao: amax onto 7.5, half of 7 - (-8).
            f"{family}:compressed_tensors": replace(group, maximum=7.5),
            f"{family}:torchao": replace(group, maximum=7.5, apply="reciprocal"),
        }
    return found


def _presets() -> dict[str, BlockFormat]:
    found: dict[str, BlockFormat] = {}
    for family in _MX:
        for recipe, format in _mx(family).items():
            found[f"{family}:{recipe}" if recipe else family] = format
    found |= _vendor_mx() | _nvfp4() | _fp8() | _integers()
    return {name: replace(format, name=name) for name, format in found.items()}


PRESETS: dict[str, BlockFormat] = _presets()


def preset(name: str) -> BlockFormat:
    """The block format called `name`; ValueError lists near matches.

    >>> preset("mxfp4").scale_rule, preset("mxfp4:cublas_te").scale_rule
    ('floor', 'rceil')
    """
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(str(name), PRESETS, n=5, cutoff=0.5)
    families = dict.fromkeys(key.partition(":")[0] for key in PRESETS)
    hint = f"near it are {', '.join(near)}" if near else "nothing is near it"
    raise ValueError(
        f"unknown block format {name!r}: {hint}; families are {', '.join(families)}"
    )
