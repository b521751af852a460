"""Presets of models: they hold together, at full size and tiny."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle import models
from oracle.models import MODELS, get
from oracle.moe import trace
from oracle.spec import Layer

#: What the project promises beside whatever else is there.
PROMISED = (
    "gpt-oss-120b", "gpt-oss-20b", "deepseek-v3", "deepseek-v4-flash",
    "deepseek-v4-flash-hash", "deepseek-v4-pro", "mixtral-8x7b", "qwen3-30b-a3b",
    "llama-4-scout", "phi-3.5-moe", "kimi-k2", "glm-4.5", "minimax-m2", "minimax-m3",
    "ernie-4.5-21b", "longcat-flash", "nemotron-3-nano-30b", "gemma-4-26b-a4b",
    "inkling", "lfm2-8b-a1b", "step-3.7-flash", "mistral-small-4", "qwen2-moe-a2.7b",
    "qwen3-next-80b", "jamba-v0.1", "olmoe-1b-7b", "granite-3b-a800m", "dbrx",
    "hunyuan-a13b", "hy3-preview", "hy4-preview", "dots-1", "afmoe-trinity-mini",
    "laguna-xs.2", "cohere2-command-a-plus",
)  # fmt: skip


def tiny(layer: Layer) -> Layer:
    """The same mathematics at sizes that run in a moment, in plain weights."""
    count = 1 if layer.shared is None else layer.shared.count
    shared = layer.shared and replace(layer.shared, intermediate=8 * count)
    groups = layer.routing.groups
    routing = replace(layer.routing, zero_experts=min(layer.routing.zero_experts, 3))
    small = layer.resized(
        hidden=16, intermediate=8, experts=4 * groups, top_k=min(layer.top_k, 3)
    )
    return replace(
        small, shared=shared, routing=routing,
        weights="bf16", activations="bf16", requantize="bf16",
    )  # fmt: skip


def test_models_include_what_is_promised() -> None:
    assert set(PROMISED) <= set(MODELS)


def test_models_name_themselves() -> None:
    assert all(layer.name == name for name, layer in MODELS.items())
    families = (models.gpt_oss, models.deepseek, models.noaux, models.sigmoid,
                models.softmax, models.qwen)  # fmt: skip
    listed = [layer.name for family in families for layer in family.LAYERS]
    assert sorted(listed) == sorted(MODELS), "two presets have one name"
    for family in families:
        made = [value for value in vars(family).values() if isinstance(value, Layer)]
        assert {layer.name for layer in made} == {layer.name for layer in family.LAYERS}


@pytest.mark.parametrize("name", MODELS)
def test_models_compute_at_tiny_sizes(name, make_sample) -> None:
    layer = tiny(MODELS[name])
    sample = make_sample(layer, tokens=4)
    params, token_ids = sample.params, None
    if layer.routing.method == "hash":
        token_ids = torch.tensor([0, 2, 1, 2])
        table = torch.tensor([[0, 1, 2], [3, 2, 1], [2, 0, 3]])
        params = replace(params, hash_table=table)
    params.check(layer)
    taps = trace(layer, params, sample.x, sample.logits, token_ids=token_ids)
    assert taps["out"].value.shape == sample.x.shape
    assert taps["out"].value.isfinite().all()
    assert taps["ids"].value.max() < layer.routed_choices


def test_models_get_names_near_matches() -> None:
    assert get("kimi-k2") is MODELS["kimi-k2"]
    with pytest.raises(ValueError, match=r"'GPT_OSS_120B': near it are gpt-oss-120b"):
        get("GPT_OSS_120B")
    with pytest.raises(ValueError, match="'zzz': nothing is near it"):
        get("zzz")


@pytest.mark.parametrize("name", MODELS)
def test_models_print_as_the_python_that_builds_them(name: str) -> None:
    from oracle.spec import Activation, BlockFormat, Routing, Shared

    known = {k.__name__: k for k in (Layer, Activation, BlockFormat, Routing, Shared)}
    assert eval(repr(MODELS[name]), known) == MODELS[name]
