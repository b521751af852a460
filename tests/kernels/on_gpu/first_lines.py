"""Every op, layer, format and tactic whose first call is timed."""

from __future__ import annotations

from collections.abc import Iterator

_LAYERS = (
    "gpt-oss-120b", "deepseek-v3", "deepseek-v4-flash", "mixtral-8x7b",
    "qwen2-moe-a2.7b", "llama-4-scout",
)  # fmt: skip
#: Of the weights, and of what is multiplied with them.
_FORMATS = (
    ("mxfp4", "mxfp8_e4m3"), ("mxfp8_e4m3", "mxfp8_e4m3"),
    ("fp8_block_128", "fp8_group_128"), ("fp8_tensor", "fp8_tensor"),
    ("nvfp4", "nvfp4"), ("int8_channel", "int8_token"),
)  # fmt: skip
_QUANTIZED = (
    "mxfp4", "mxfp8_e4m3", "nvfp4", "fp8_group_128", "fp8_tensor", "int8_token",
)  # fmt: skip
_PARTS = ("prepare", "route", "permute", "activate", "activate+quantize", "combine")
_OMNI = ("omni_route", "omni_route_backward", "omni_experts")
_TACTICS = (
    "naive", "mma_small", "mma_medium", "mma_large", "mma_huge", "mma_apart", "torch",
    "cublas", "modular", "modular_late",
)  # fmt: skip
_SIZES = "T=16 H=256 I=256 E=32"


def calls() -> Iterator[tuple[str, str | None]]:
    """Each as a line of a case, and the tactic; None: the op's own choice."""
    for model in _LAYERS:
        yield f"moe model={model} {_SIZES}", None
        yield f"experts model={model} {_SIZES}", None
    for weights, x in _FORMATS:
        formats = f"weights={weights} activations={x} requantize={x}"
        for tactic in (None, "mma_medium"):
            yield f"moe model=mixtral-8x7b {_SIZES} {formats}", tactic
    for tactic in _TACTICS:
        yield f"moe model=deepseek-v3 {_SIZES}", tactic
    for model in ("gpt-oss-120b", "deepseek-v4-flash"):
        for tactic in ("mma_medium", "modular"):
            yield f"moe model={model} {_SIZES}", tactic
    for part in _PARTS:
        yield f"{part} model=gpt-oss-120b {_SIZES}", None
    for model in _LAYERS[:4]:
        yield f"grouped_gemm model={model} {_SIZES}", None
    for name in _QUANTIZED:
        yield f"quantize T=16 H=256 E=8 k=2 format={name}", None
        yield f"dequantize T=16 H=256 E=8 k=2 format={name}", None
    for name in ("mxfp8_e4m3", "nvfp4"):
        yield f"grouped_quantize T=16 H=256 E=8 k=2 format={name}", None
    for op in _OMNI:
        yield f"{op} T=16 H=256 E=4096 k=16", None
