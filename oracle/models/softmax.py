"""Families that route by a softmax."""

from __future__ import annotations

from dataclasses import replace

from oracle.models.recipes import SOFTMAX, SOFTMAX_OF_CHOSEN, SOFTMAX_RENORMALIZED
from oracle.spec import Activation, Layer, Routing, Shared

# transformers mixtral (V, C).
MIXTRAL_8X7B = Layer(
    4096, 14336, 8, 2, routing=SOFTMAX_RENORMALIZED, name="mixtral-8x7b"
)

# As 8x7B; the sizes are unverified.
MIXTRAL_8X22B = replace(
    MIXTRAL_8X7B, hidden=6144, intermediate=16384, name="mixtral-8x22b"
)

# transformers minimax, Mixtral's layer (S); all sizes are unverified.
MINIMAX_TEXT_01 = Layer(
    6144, 9216, 32, 2, routing=SOFTMAX_RENORMALIZED, name="minimax-text-01"
)

# transformers dbrx (V); all sizes are unverified. The L1 norm of positive weights is
# their sum.
DBRX = Layer(6144, 10752, 16, 4, routing=SOFTMAX_RENORMALIZED, name="dbrx")

# vLLM arctic.py (S); all sizes are unverified. The dense MLP beside it sees another
# input and is no part of the layer.
ARCTIC = Layer(7168, 4864, 128, 2, routing=SOFTMAX_RENORMALIZED, name="arctic")

# transformers hunyuan_v1_moe (V); all sizes are unverified.
HUNYUAN_A13B = Layer(
    4096, 3072, 64, 8,
    routing=SOFTMAX_RENORMALIZED,
    shared=Shared(3072),
    name="hunyuan-a13b",
)  # fmt: skip
HUNYUAN_LARGE = Layer(
    6400, 18304, 16, 1,
    routing=SOFTMAX_RENORMALIZED,
    shared=Shared(18304),
    name="hunyuan-large",
)  # fmt: skip

# transformers jamba (V, C); of 1.5-Large all sizes are unverified.
JAMBA_V0_1 = Layer(4096, 14336, 16, 2, routing=SOFTMAX, name="jamba-v0.1")
JAMBA_1_5_LARGE = replace(
    JAMBA_V0_1, hidden=8192, intermediate=24576, name="jamba-1.5-large"
)

# transformers olmoe (V, C); the intermediate size is unverified, the class says 2048.
OLMOE_1B_7B = Layer(2048, 1024, 64, 8, routing=SOFTMAX, name="olmoe-1b-7b")

# transformers flex_olmo, OLMoE's layer (S, C).
FLEX_OLMO = Layer(4096, 11008, 7, 5, routing=SOFTMAX, name="flex-olmo")

# transformers phimoe (V, C): sparsemixer, two rounds.
PHI_3_5_MOE = Layer(
    4096, 6400, 16, 2, routing=Routing(method="sparsemixer"), name="phi-3.5-moe"
)

# transformers granitemoe (V); all sizes are unverified.
GRANITE_3B_A800M = Layer(
    1536, 512, 40, 8, routing=SOFTMAX_OF_CHOSEN, name="granite-3b-a800m"
)

# transformers jetmoe (S, C).
JETMOE_8B = Layer(2048, 5632, 8, 2, routing=SOFTMAX_OF_CHOSEN, name="jetmoe-8b")

# transformers cohere2_moe (S, C): no shared expert in this checkpoint.
COHERE2_COMMAND_A_PLUS = Layer(
    8192, 22528, 8, 2, routing=SOFTMAX_OF_CHOSEN, name="cohere2-command-a-plus"
)

# transformers ernie4_5_moe (V, C): a bias on the selection.
ERNIE_4_5_21B = Layer(
    2560, 1536, 64, 6,
    routing=Routing(
        bias="selection", renormalize="max_sum_epsilon", epsilon=1e-12
    ),
    shared=Shared(2 * 1536),
    name="ernie-4.5-21b",
)  # fmt: skip

# transformers longcat_flash (V, C): the last 256 of 768 choices hand x on.
LONGCAT_FLASH = Layer(
    6144, 2048, 512, 12,
    routing=Routing(bias="selection", scale=6.0, zero_experts=256),
    name="longcat-flash",
)  # fmt: skip

# transformers gemma4 (V), a third-party configuration (T). The router sees another norm
# of x than the experts, the dense MLP beside them a third: it is no part of the layer.
GEMMA_4_26B_A4B = Layer(
    2816, 704, 128, 8,
    routing=Routing(renormalize="sum", per_expert_scale=True),
    activation=Activation("geglu_tanh"),
    name="gemma-4-26b-a4b",
)  # fmt: skip

# xai-org/grok-1 model.py (S). Its ports disagree about the router: SGLang caps the
# logits softly at 30, vLLM does and also divides the weights by their sum.
GROK_1 = Layer(6144, 32768, 8, 2, activation=Activation("geglu_tanh"), name="grok-1")
GROK_1_SGLANG = replace(GROK_1, routing=Routing(softcap=30.0), name="grok-1-sglang")
GROK_1_VLLM = replace(
    GROK_1, routing=Routing(softcap=30.0, renormalize="sum"), name="grok-1-vllm"
)

LAYERS = (
    MIXTRAL_8X7B, MIXTRAL_8X22B, MINIMAX_TEXT_01, DBRX, ARCTIC, HUNYUAN_A13B,
    HUNYUAN_LARGE, JAMBA_V0_1, JAMBA_1_5_LARGE, OLMOE_1B_7B, FLEX_OLMO, PHI_3_5_MOE,
    GRANITE_3B_A800M, JETMOE_8B, COHERE2_COMMAND_A_PLUS, ERNIE_4_5_21B,
    LONGCAT_FLASH, GEMMA_4_26B_A4B, GROK_1, GROK_1_SGLANG, GROK_1_VLLM,
)  # fmt: skip
