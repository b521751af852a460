"""Families that copied DeepSeek-V3's router, most of them without its groups."""

from __future__ import annotations

from dataclasses import replace

from oracle.blocks.presets import preset
from oracle.models.recipes import CLAMPED_SWIGLU, NOAUX
from oracle.spec import Activation, Layer, Shared

# transformers glm4_moe (V), sizes of third-party configurations of GLM-4.5 to 4.7 (T).
GLM_4_5 = Layer(
    5120, 1536, 160, 8,
    routing=replace(NOAUX, scale=2.5),
    shared=Shared(1536),
    name="glm-4.5",
)  # fmt: skip

# transformers glm4_moe (V, C).
GLM_4_5_AIR = Layer(
    4096, 1408, 128, 8, routing=NOAUX, shared=Shared(1408), name="glm-4.5-air"
)

# transformers glm4_moe_lite (S, C).
GLM_4_7_FLASH = Layer(
    2048, 1536, 64, 4,
    routing=replace(NOAUX, scale=1.8),
    shared=Shared(1536),
    name="glm-4.7-flash",
)  # fmt: skip

# transformers glm_moe_dsa (V, C, T).
GLM_5 = Layer(
    6144, 2048, 256, 8,
    routing=replace(NOAUX, scale=2.5),
    shared=Shared(2048),
    name="glm-5",
)  # fmt: skip

# transformers glm5_next (V, C): routed and shared experts clamp.
GLM_5_3_FLASH = Layer(
    4096, 2048, 288, 8,
    routing=replace(NOAUX, scale=2.5),
    activation=CLAMPED_SWIGLU,
    shared=Shared(2048),
    name="glm-5.3-flash",
)  # fmt: skip

# transformers dots1 (V); all sizes and the scale are unverified.
DOTS_1 = Layer(
    4096, 1408, 128, 6,
    routing=replace(NOAUX, scale=2.5),
    shared=Shared(2 * 1408),
    name="dots-1",
)  # fmt: skip

# transformers hy_v4 (V, C): routed experts clamp, the shared one does not.
HY4 = Layer(
    2816, 768, 256, 8,
    routing=replace(NOAUX, scale=2.827),
    activation=CLAMPED_SWIGLU,
    shared=Shared(768, activation=Activation()),
    name="hy4-preview",
)  # fmt: skip

# transformers nemotron_h (V), a third-party configuration (T); the scale is unverified.
# Ungated: one half, relu(x)^2.
NEMOTRON_3_NANO = Layer(
    2688, 1856, 128, 6,
    routing=replace(NOAUX, scale=2.5),
    activation=Activation("relu2"),
    shared=Shared(3712),
    name="nemotron-3-nano-30b",
)  # fmt: skip

# transformers bailing_hybrid (S, C): groups as DeepSeek-V3.
LING_3_FLASH = Layer(
    2560, 768, 512, 8,
    routing=replace(NOAUX, groups=8, top_groups=4, scale=2.5),
    shared=Shared(768),
    name="ling-3-flash",
)  # fmt: skip

# Its last two layers, 40 and 41, clamp after the activation, by the released
# configuration; transformers ignores it (S).
LING_3_FLASH_CLAMPED = replace(
    LING_3_FLASH,
    activation=Activation(limit=4.0, clamp="after"),
    shared=Shared(768, activation=Activation(limit=7.0, clamp="after")),
    name="ling-3-flash-clamped",
)

# transformers mimo_v2_flash (S, C).
MIMO_V2_FLASH = Layer(4096, 2048, 256, 8, routing=NOAUX, name="mimo-v2-flash")

# transformers solar_open (V, C).
SOLAR_OPEN_100B = Layer(
    4096, 1280, 128, 8, routing=NOAUX, shared=Shared(1280), name="solar-open-100b"
)

# transformers axk1 (S, C): DeepSeek-V3's layer, with a norm behind it.
AX_K1 = Layer(
    7168, 2048, 192, 8,
    routing=replace(NOAUX, groups=8, top_groups=4, scale=2.5),
    shared=Shared(2048),
    name="a.x-k1",
)  # fmt: skip

# transformers axk2 (S, C); were there groups, those left out would score 0.
AX_K2 = Layer(
    2048, 512, 128, 8,
    routing=replace(NOAUX, masked_fill="zero", scale=2.5),
    shared=Shared(512),
    name="a.x-k2",
)  # fmt: skip

# transformers mistral4 (V, C): the same router with a softmax and no bias; a group left
# out scores 0.
MISTRAL_SMALL_4 = Layer(
    4096, 2048, 128, 4,
    routing=replace(NOAUX, score="softmax", bias="none", masked_fill="zero"),
    shared=Shared(2048),
    name="mistral-small-4",
)  # fmt: skip

# transformers mistral_large4 (S, C).
MISTRAL_LARGE_4 = replace(
    MISTRAL_SMALL_4,
    hidden=6144,
    intermediate=6144,
    shared=Shared(6144),
    name="mistral-large-4",
)

# transformers inkling2 (S, C): soft caps on gate and up. The checkpoint is MXFP8, E4M3
# unverified.
INKLING_2_SMALL = Layer(
    4608, 2304, 384, 8,
    routing=replace(NOAUX, group_score="max", scale=8.0),
    activation=Activation("softcap"),
    weights=preset("mxfp8_e4m3"),
    name="inkling-2-small",
)  # fmt: skip

LAYERS = (
    GLM_4_5, GLM_4_5_AIR, GLM_4_7_FLASH, GLM_5, GLM_5_3_FLASH, DOTS_1, HY4,
    NEMOTRON_3_NANO, LING_3_FLASH, LING_3_FLASH_CLAMPED, MIMO_V2_FLASH,
    SOLAR_OPEN_100B, AX_K1, AX_K2, MISTRAL_SMALL_4, MISTRAL_LARGE_4, INKLING_2_SMALL,
)  # fmt: skip
