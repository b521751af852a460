"""OpenAI: softmax over the chosen logits, biases everywhere, clamped SwiGLU."""

from __future__ import annotations

from dataclasses import replace

from oracle.blocks.presets import preset
from oracle.models.recipes import GPT_OSS_SWIGLU, SOFTMAX_OF_CHOSEN
from oracle.spec import Layer

# openai/gpt-oss, gpt_oss/torch/model.py (S); transformers gpt_oss (V, C).
# The checkpoint's gate and up rows alternate: oracle.layouts.gpt_oss.
GPT_OSS_120B = Layer(
    hidden=2880,
    intermediate=2880,
    experts=128,
    top_k=4,
    routing=replace(SOFTMAX_OF_CHOSEN, bias="logits"),
    activation=GPT_OSS_SWIGLU,
    expert_bias=True,
    weights=preset("mxfp4"),
    name="gpt-oss-120b",
)

# As the 120b; the number of experts is unverified.
GPT_OSS_20B = replace(GPT_OSS_120B, experts=32, name="gpt-oss-20b")

# transformers openai_privacy_filter (S, C): GPT-OSS's layer; it divides the weights by
# k and multiplies the output by k, which is exact for k = 4.
PRIVACY_FILTER = replace(
    GPT_OSS_120B, hidden=640, intermediate=640, weights="bf16", name="privacy-filter"
)

LAYERS = (GPT_OSS_120B, GPT_OSS_20B, PRIVACY_FILTER)
