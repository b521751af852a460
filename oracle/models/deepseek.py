"""DeepSeek and the models that took over its layer with its sizes: Kimi."""

from __future__ import annotations

from dataclasses import replace

from oracle.blocks.presets import preset
from oracle.models.recipes import CLAMPED_SWIGLU, NOAUX
from oracle.spec import Layer, Routing, Shared

# deepseek-ai/DeepSeek-V3, inference/configs and model.py (V): one group, best six.
DEEPSEEK_V2_LITE = Layer(
    hidden=2048,
    intermediate=1408,
    experts=64,
    top_k=6,
    shared=Shared(2 * 1408),
    name="deepseek-v2-lite",
)

# The same sources (V). A group's score is its best expert. The official code leaves the
# other groups out (-inf); transformers gives them the score 0.
DEEPSEEK_V2 = Layer(
    hidden=5120,
    intermediate=1536,
    experts=160,
    top_k=6,
    routing=Routing(groups=8, top_groups=3, scale=16.0),
    shared=Shared(2 * 1536),
    name="deepseek-v2",
)

# The same sources (V); sizes also of transformers (C). The official code divides by the
# bare sum, transformers adds 1e-20 to it. FP8: DeepSeek-V3 report, section 3.3.
DEEPSEEK_V3 = Layer(
    hidden=7168,
    intermediate=2048,
    experts=256,
    top_k=8,
    routing=Routing(
        "sigmoid",
        bias="selection",
        groups=8,
        top_groups=4,
        group_score="top2",
        renormalize="sum",
        scale=2.5,
    ),
    shared=Shared(2048, weights=preset("fp8_block_128")),
    weights=preset("fp8_block_128"),
    activations=preset("fp8_group_128"),
    requantize=preset("fp8_group_128"),
    name="deepseek-v3",
)

# As V3, with power-of-two scales (S).
DEEPSEEK_V3_1 = replace(
    DEEPSEEK_V3,
    shared=Shared(2048, weights=preset("fp8_block_128:ue8m0")),
    weights=preset("fp8_block_128:ue8m0"),
    activations=preset("fp8_group_128:deepgemm_ue8m0"),
    requantize=preset("fp8_group_128:deepgemm_ue8m0"),
    name="deepseek-v3.1",
)

# transformers deepseek_v32 (V, C); that it is released in FP8 is unverified.
DEEPSEEK_V3_2 = replace(DEEPSEEK_V3_1, name="deepseek-v3.2")

# DeepSeek-V4 inference/model.py through copies of it (S), transformers deepseek_v4 (V,
# C), the released configuration through a third party (T). Weights multiply the
# intermediate, and the bare sum divides; transformers does neither. Experts are MXFP4;
# the shared expert is FP8 in blocks of 128 with E8M0 scales.
DEEPSEEK_V4_FLASH = Layer(
    hidden=4096,
    intermediate=2048,
    experts=256,
    top_k=6,
    routing=Routing(
        "sqrtsoftplus",
        bias="selection",
        renormalize="sum",
        scale=1.5,
    ),
    activation=CLAMPED_SWIGLU,
    weight_on="intermediate",
    shared=Shared(2048, weights=preset("fp8_block_128:ue8m0")),
    weights=preset("mxfp4"),
    activations=preset("fp8_group_128:deepgemm_ue8m0"),
    requantize=preset("fp8_group_128:deepgemm_ue8m0"),
    name="deepseek-v4-flash",
)

# The first three layers: experts by a table of token ids, no bias (the same sources).
DEEPSEEK_V4_FLASH_HASH = replace(
    DEEPSEEK_V4_FLASH,
    routing=replace(DEEPSEEK_V4_FLASH.routing, method="hash", bias="none"),
    name="deepseek-v4-flash-hash",
)

# Sizes from test fixtures of third parties (T); the rest as Flash.
DEEPSEEK_V4_PRO = replace(
    DEEPSEEK_V4_FLASH,
    hidden=7168,
    intermediate=3072,
    experts=384,
    routing=replace(DEEPSEEK_V4_FLASH.routing, scale=2.5),
    shared=Shared(3072, weights=preset("fp8_block_128:ue8m0")),
    name="deepseek-v4-pro",
)

DEEPSEEK_V4_PRO_HASH = replace(
    DEEPSEEK_V4_PRO,
    routing=replace(DEEPSEEK_V4_PRO.routing, method="hash", bias="none"),
    name="deepseek-v4-pro-hash",
)

# The DeepSeek-V3 class of transformers (V), sizes from a third party's copy of the
# configuration (T).
KIMI_K2 = Layer(
    hidden=7168,
    intermediate=2048,
    experts=384,
    top_k=8,
    routing=replace(NOAUX, scale=2.827),
    shared=Shared(2048, weights=preset("fp8_block_128")),
    weights=preset("fp8_block_128"),
    activations=preset("fp8_group_128"),
    requantize=preset("fp8_group_128"),
    name="kimi-k2",
)

# As K2 with INT4 weights, but for the shared expert (T); groups of 32 with bf16 scales
# are unverified.
KIMI_K2_THINKING = replace(
    KIMI_K2,
    shared=Shared(2048),
    weights=preset("int4_group_32:bf16"),
    activations="bf16",
    requantize="bf16",
    name="kimi-k2-thinking",
)

# transformers kimi_linear (S, C) and a third party's copy of the configuration (T).
KIMI_LINEAR_48B = Layer(
    hidden=2304,
    intermediate=1024,
    experts=256,
    top_k=8,
    routing=replace(NOAUX, scale=2.446),
    shared=Shared(1024),
    name="kimi-linear-48b",
)

LAYERS = (
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V2,
    DEEPSEEK_V3,
    DEEPSEEK_V3_1,
    DEEPSEEK_V3_2,
    DEEPSEEK_V4_FLASH,
    DEEPSEEK_V4_FLASH_HASH,
    DEEPSEEK_V4_PRO,
    DEEPSEEK_V4_PRO_HASH,
    KIMI_K2,
    KIMI_K2_THINKING,
    KIMI_LINEAR_48B,
)
