"""Presets of models against transformers: the same mathematics, and the same sizes."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest

from oracle.models import get
from oracle.spec import Layer

pytest.importorskip("transformers")

from refmoe.peers.transformers import BLOCKS
from refmoe.peers.transformers.block import lookup

#: Preset -> the block of transformers that computes it. Blocks are run against the
#: oracle, so whatever one accepts is what the model's code does.
CODE = {
    "gpt-oss-120b": "gpt_oss", "gpt-oss-20b": "gpt_oss",
    "deepseek-v2-lite": "deepseek_v2", "deepseek-v2": "deepseek_v2",
    "deepseek-v3": "deepseek_v3", "deepseek-v3.1": "deepseek_v3",
    "deepseek-v3.2": "deepseek_v32", "kimi-k2": "deepseek_v3",
    "kimi-k2-thinking": "deepseek_v3",
    "deepseek-v4-flash": "deepseek_v4", "deepseek-v4-pro": "deepseek_v4",
    "deepseek-v4-flash-hash": "deepseek_v4_hash",
    "deepseek-v4-pro-hash": "deepseek_v4_hash",
    "glm-4.5": "glm4_moe", "glm-4.5-air": "glm4_moe", "glm-5": "glm_moe_dsa",
    "glm-5.3-flash": "glm5_next", "dots-1": "dots1", "hy4-preview": "hy_v4",
    "nemotron-3-nano-30b": "nemotron_h", "solar-open-100b": "solar_open",
    "mistral-small-4": "mistral4", "inkling-2-small": "inkling2",
    "llama-4-scout": "llama4", "llama-4-maverick": "llama4",
    "minimax-m2": "minimax_m2", "minimax-m3": "minimax_m3",
    "step-3.7-flash": "step3p7", "step-3.7-flash-clamped": "step3p7",
    "hy3-preview": "hy_v3", "afmoe-trinity-mini": "afmoe", "lfm2-8b-a1b": "lfm2_moe",
    "laguna-xs.2": "laguna", "inkling": "inkling",
    "mixtral-8x7b": "mixtral", "mixtral-8x22b": "mixtral",
    "minimax-text-01": "minimax", "dbrx": "dbrx",
    "hunyuan-a13b": "hunyuan_v1_moe", "hunyuan-large": "hunyuan_v1_moe",
    "jamba-v0.1": "jamba", "jamba-1.5-large": "jamba", "olmoe-1b-7b": "olmoe",
    "flex-olmo": "olmoe", "phi-3.5-moe": "phimoe", "granite-3b-a800m": "granitemoe",
    "ernie-4.5-21b": "ernie4_5_moe", "longcat-flash": "longcat_flash",
    "gemma-4-26b-a4b": "gemma4",
    "qwen2-moe-a2.7b": "qwen2_moe", "qwen3-30b-a3b": "qwen3_moe",
    "qwen3-235b-a22b": "qwen3_moe", "qwen3-next-80b": "qwen3_next",
    "qwen3.5-35b": "qwen3_next", "qwen3.5-397b-a17b": "qwen3_next",
    "qwen4-exp": "qwen3_next",
}  # fmt: skip

#: Presets whose sizes are the defaults of their block's configuration class.
DEFAULT_SIZES = (
    "gpt-oss-120b", "deepseek-v3", "deepseek-v3.2", "deepseek-v4-flash",
    "deepseek-v4-flash-hash", "glm-4.5-air", "glm-5", "glm-5.3-flash", "hy4-preview",
    "solar-open-100b", "mistral-small-4", "inkling-2-small", "llama-4-scout",
    "minimax-m2", "minimax-m3", "step-3.7-flash", "hy3-preview", "afmoe-trinity-mini",
    "lfm2-8b-a1b", "laguna-xs.2", "inkling", "mixtral-8x7b", "jamba-v0.1",
    "phi-3.5-moe", "ernie-4.5-21b", "longcat-flash", "qwen2-moe-a2.7b",
    "qwen3-next-80b",
)  # fmt: skip

MOE = {"hidden_size": "hidden", "moe_intermediate_size": "intermediate"}
PLAIN = {"hidden_size": "hidden", "intermediate_size": "intermediate"}
NUM = {"num_experts": "experts", "num_experts_per_tok": "top_k"}
LOCAL = {"num_local_experts": "experts", "num_experts_per_tok": "top_k"}
ROUTED = {"n_routed_experts": "experts", "num_experts_per_tok": "top_k"}
TOKEN = {"num_experts": "experts", "num_experts_per_token": "top_k"}
SCALE = {"routed_scaling_factor": "routing.scale"}
GROUPS = {"n_group": "routing.groups", "topk_group": "routing.top_groups"}
QWEN = {**MOE, **NUM, "shared_expert_intermediate_size": "shared.intermediate"}

#: Presets of classes that are no block of the table: configuration class, and which
#: field of the layer each of its defaults must equal.
OTHER_SIZES: dict[str, tuple[str, str, dict[str, str]]] = {
    "privacy-filter": (
        "openai_privacy_filter", "OpenAIPrivacyFilterConfig",
        {**PLAIN, **LOCAL, "swiglu_alpha": "activation.alpha",
         "swiglu_limit": "activation.limit"},
    ),
    "kimi-linear-48b": ("kimi_linear", "KimiLinearConfig", {**MOE, **TOKEN, **SCALE}),
    "glm-4.7-flash": (
        "glm4_moe_lite", "Glm4MoeLiteConfig", {**MOE, **ROUTED, **SCALE, **GROUPS}
    ),
    "ling-3-flash": (
        "bailing_hybrid", "BailingHybridConfig",
        {**MOE, **TOKEN, **SCALE, "num_expert_group": "routing.groups",
         "topk_group": "routing.top_groups"},
    ),
    "mimo-v2-flash": (
        "mimo_v2_flash", "MiMoV2FlashConfig", {**MOE, **ROUTED, **SCALE, **GROUPS}
    ),
    "a.x-k1": ("axk1", "AXK1Config", {**MOE, **ROUTED, **SCALE, **GROUPS}),
    "a.x-k2": ("axk2", "AXK2Config", {**MOE, **ROUTED, **SCALE}),
    "mistral-large-4": (
        "mistral_large4", "MistralLarge4TextConfig",
        {**MOE, **ROUTED, **SCALE, **GROUPS},
    ),
    "kolibri-1": ("kolibri1", "Kolibri1Config", QWEN),
    "flint": ("flint", "FlintConfig", QWEN),
    "flex-olmo": ("flex_olmo", "FlexOlmoConfig", {**PLAIN, **NUM}),
    "jetmoe-8b": ("jetmoe", "JetMoeConfig", {**PLAIN, **LOCAL}),
    "cohere2-command-a-plus": ("cohere2_moe", "Cohere2MoeConfig", {**PLAIN, **NUM}),
    "qwen3.5-35b": ("qwen3_5_moe", "Qwen3_5MoeTextConfig", QWEN),
    "qwen4-exp": ("qwen4_exp", "Qwen4ExpTextConfig", QWEN),
}  # fmt: skip


def _plain(name: str) -> Layer:
    layer = get(name)
    shared = layer.shared and replace(layer.shared, weights=None)
    return replace(
        layer, weights="bf16", activations="bf16", requantize="bf16", shared=shared
    )


def _defaults(folder: str, config: str) -> object:
    module = f"transformers.models.{folder}.configuration_{folder}"
    return getattr(importlib.import_module(module), config)()


@pytest.mark.parametrize("name", CODE)
def test_models_are_what_transformers_code_computes(name: str) -> None:
    """Catches a scale on the wrong sum, another epsilon, a clamp on the wrong side."""
    assert BLOCKS[CODE[name]].unsupported(_plain(name)) is None


@pytest.mark.parametrize("name", DEFAULT_SIZES)
def test_models_have_the_sizes_of_the_released_class(name: str) -> None:
    block = BLOCKS[CODE[name]]
    folder = block.folder or block.name
    defaults = _defaults(folder, block.config)
    layer = _plain(name)
    for field, source in block.reads.items():
        want = lookup(layer, source) if isinstance(source, str) else source[1](layer)
        found = getattr(defaults, field)
        if field.startswith("swiglu_limits"):
            found = [found]  # a list with a limit for each layer, or none at all
        assert found == want, field


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_models_have_the_sizes_of_other_released_classes(name: str) -> None:
    folder, config, fields = OTHER_SIZES[name]
    defaults = _defaults(folder, config)
    for field, path in fields.items():
        assert getattr(defaults, field) == lookup(get(name), path), field


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_models_renormalise_and_share_as_the_class_says(name: str) -> None:
    folder, config, _ = OTHER_SIZES[name]
    defaults, layer = _defaults(folder, config), get(name)
    renormalises = getattr(defaults, "norm_topk_prob", None)
    if renormalises is None:
        renormalises = getattr(defaults, "moe_renormalize", None)
    sums_to_one = layer.routing.score == "softmax" and (
        layer.routing.order == "topk_then_score"
    )
    if renormalises is not None and not sums_to_one:
        assert renormalises == (layer.routing.renormalize != "none")
    for field in ("n_shared_experts", "num_shared_experts"):
        count = getattr(defaults, field, None)
        if count is not None:
            shared = 0 if layer.shared is None else layer.shared.intermediate
            assert shared == count * layer.intermediate
