"""Families that score experts by a sigmoid, without groups."""

from __future__ import annotations

from dataclasses import replace

from oracle.models.recipes import GPT_OSS_SWIGLU, SIGMOID, SIGMOID_EPSILON
from oracle.spec import Activation, Layer, Routing, Shared

# transformers llama4 (V, C): one expert, whose input its sigmoid multiplies.
LLAMA_4_SCOUT = Layer(
    5120, 8192, 16, 1,
    routing=Routing("sigmoid", "topk_then_score"),
    weight_on="input",
    shared=Shared(8192),
    name="llama-4-scout",
)  # fmt: skip

# As Scout; the number of experts is unverified.
LLAMA_4_MAVERICK = replace(LLAMA_4_SCOUT, experts=128, name="llama-4-maverick")

# transformers minimax_m2 (V, C).
MINIMAX_M2 = Layer(3072, 1536, 256, 8, routing=SIGMOID, name="minimax-m2")

# transformers minimax_m3_vl (V, C): GPT-OSS's activation, the scale on the routed sum.
MINIMAX_M3 = Layer(
    6144, 3072, 128, 4,
    routing=replace(SIGMOID, scale=2.0, scale_on="sum"),
    activation=GPT_OSS_SWIGLU,
    shared=Shared(3072),
    name="minimax-m3",
)  # fmt: skip

# transformers step3p7 (V, C): every layer but the last two.
STEP_3_7_FLASH = Layer(
    4096, 1280, 288, 8,
    routing=replace(SIGMOID, scale_on="sum"),
    activation=Activation(clamp="after"),
    shared=Shared(1280, activation=Activation(clamp="after")),
    name="step-3.7-flash",
)  # fmt: skip

# Layers 43 and 44: silu(gate) and up are clamped, in the shared expert at 16 (S).
STEP_3_7_FLASH_CLAMPED = replace(
    STEP_3_7_FLASH,
    activation=Activation(limit=7.0, clamp="after"),
    shared=Shared(1280, activation=Activation(limit=16.0, clamp="after")),
    name="step-3.7-flash-clamped",
)

# transformers hy_v3 (V, C).
HY3 = Layer(
    4096, 1536, 192, 8,
    routing=replace(SIGMOID_EPSILON, scale=2.826),
    shared=Shared(1536),
    name="hy3-preview",
)  # fmt: skip

# transformers afmoe (V, C); its scale of 1 is the class's.
AFMOE_TRINITY_MINI = Layer(
    2048, 1408, 64, 6,
    routing=SIGMOID_EPSILON,
    shared=Shared(2 * 1408),
    name="afmoe-trinity-mini",
)  # fmt: skip

# transformers lfm2_moe (V, C).
LFM2_8B_A1B = Layer(
    2048, 1792, 32, 4,
    routing=replace(SIGMOID_EPSILON, epsilon=1e-6),
    name="lfm2-8b-a1b",
)  # fmt: skip

# transformers laguna (V, C): its scale of 1 would stand on the routed sum.
LAGUNA_XS_2 = Layer(
    2048, 512, 256, 8,
    routing=replace(SIGMOID, scale_on="sum"),
    shared=Shared(512),
    name="laguna-xs.2",
)  # fmt: skip

# transformers inkling (V, C): two shared experts have logits of their own, take part in
# the sum and are weighted on their intermediate. Its learned global scale is left at 1.
INKLING = Layer(
    6144, 3072, 256, 6,
    routing=replace(SIGMOID, scale=8.0, shared_logits=2),
    shared=Shared(2 * 3072, count=2, combine="weighted"),
    name="inkling",
)  # fmt: skip

# transformers kolibri1 (S, C): the bias is on the logits' order, the sigmoid follows.
KOLIBRI_1 = Layer(
    2560, 512, 384, 6,
    routing=Routing("sigmoid", "topk_then_score", bias="selection"),
    shared=Shared(512),
    name="kolibri-1",
)  # fmt: skip

# transformers flint (S, C): no bias.
FLINT = Layer(
    2048, 512, 256, 6,
    routing=Routing("sigmoid", renormalize="sum"),
    shared=Shared(1024),
    name="flint",
)  # fmt: skip

LAYERS = (
    LLAMA_4_SCOUT, LLAMA_4_MAVERICK, MINIMAX_M2, MINIMAX_M3, STEP_3_7_FLASH,
    STEP_3_7_FLASH_CLAMPED, HY3, AFMOE_TRINITY_MINI, LFM2_8B_A1B, LAGUNA_XS_2, INKLING,
    KOLIBRI_1, FLINT,
)  # fmt: skip
