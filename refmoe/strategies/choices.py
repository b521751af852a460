"""What a case is drawn from: sizes at edges, groups of fields, formats, models."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from refmoe.case import Value

#: Sizes at which kernels change: tiles, buckets, powers of two and their neighbours.
EDGES: dict[str, tuple[int, ...]] = {
    "T": (7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 8192),
    "H": (16, 24, 32, 40, 64, 96, 128, 160, 192, 256, 288, 320, 384, 512),
    "I": (16, 24, 32, 40, 64, 96, 128, 160, 192, 224, 256, 288, 352, 384),
    "E": (7, 8, 9, 12, 16, 31, 32, 33, 60, 64, 96, 128, 160, 256, 257, 300, 384, 512),
    "k": (3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 22, 32),
}


def _each(field: str, *names: str) -> tuple[dict[str, Value], ...]:
    """One group of fields for every name; a shared expert gets its size later."""
    size: dict[str, Value] = {}
    if field.startswith("shared."):
        size["shared.intermediate"] = 1
    return tuple({field: name, **size} for name in names)


#: Groups of fields of a layer without a model, the ordinary ones first.
FIELDS: dict[str, tuple[dict[str, Value], ...]] = {
    "routing": (
        {},
        {"routing.renormalize": "sum"},
        {"routing.order": "topk_then_score"},
        {"routing.score": "sigmoid", "routing.bias": "selection"},
        {"routing.score": "sqrtsoftplus", "routing.bias": "selection"},
        {"routing.score": "sigmoid", "routing.order": "topk_then_score"},
        {"routing.score": "identity"},
        {"routing.bias": "logits"},
        {"routing.softcap": 5.0, "routing.logits_scale": 0.5},
        {"routing.per_expert_scale": True},
        {"routing.method": "hash"},
        {"routing.method": "sparsemixer"},
        {"routing.zero_experts": 4},
        {"routing.groups": 4, "routing.top_groups": 2},
        {
            "routing.groups": 4, "routing.top_groups": 2, "routing.score": "sigmoid",
            "routing.bias": "selection", "routing.group_score": "top2",
            "routing.renormalize": "sum_plus_epsilon", "routing.epsilon": 1e-20,
        },
    ),
    "scale": (
        {}, {"routing.scale": 2.5}, {"routing.scale": 2.5, "routing.scale_on": "sum"},
    ),
    "activation": (
        {},
        {"activation.limit": 7.0},
        {"activation.limit": 0.0},
        {"activation.limit": 0.5},
        {"activation.limit": 1.0, "activation.clamp": "after"},
        {"activation.limit": 7.0, "activation.alpha": 1.702, "activation.beta": 1.0},
        *_each(
            "activation.kind", "geglu_tanh", "geglu_erf", "softcap", "silu", "gelu_erf",
            "relu2", "identity",
        ),
    ),
    "bias": ({}, {"expert_bias": True}),
    "weight_on": ({}, {"weight_on": "input"}, {"weight_on": "intermediate"}),
    "shared": (
        {},
        *_each("shared.combine", "add", "gated", "average", "rsqrt2"),
    ),
}  # fmt: skip
#: The groups that an op looks at, where these are not all.
GROUPS: dict[str, tuple[str, ...]] = {
    "route": ("routing", "scale"),
    "grouped_gemm": ("activation",),
    "activate": ("activation",),
    "activate+quantize": ("activation",),
}
WEIGHTS = (None, "mxfp4", "mxfp8_e4m3", "nvfp4", "int8_token", "fp8_block_128")
ACTIVATIONS = (None, "mxfp8_e4m3", "nvfp4", "fp8_group_128")
FORMATS = ("mxfp8_e4m3", "mxfp4", "nvfp4", "mxfp8_e5m2", "fp8_group_128", "int8_token")
#: Models that stand for the families of routers and activations.
MODELS = (
    "mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-120b", "deepseek-v3", "deepseek-v4-flash",
    "longcat-flash",
)  # fmt: skip
#: Strategies are made once: to make one costs more than to draw from it.
SEEDS = st.integers(0, 255)


@cache
def sizes(name: str) -> SearchStrategy[int]:
    """One draw: rising sizes, then the small ones again, to be half of all."""
    low = 0 if name == "T" else 1
    small, edges = tuple(range(low, EDGES[name][0])), EDGES[name]
    again = max(1, len(edges) // len(small)) - 1
    return st.sampled_from(small + edges + small * again)


@cache
def choice(name: str, choices: tuple[Any, ...]) -> SearchStrategy[Any]:
    """One of the choices; the name keeps True apart from 1."""
    return st.sampled_from(choices)
