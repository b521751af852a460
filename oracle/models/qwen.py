"""Qwen: a softmax, from Qwen2 to Qwen4 beside a shared expert behind a sigmoid."""

from __future__ import annotations

from oracle.models.recipes import SOFTMAX, SOFTMAX_RENORMALIZED
from oracle.spec import Layer, Shared

# transformers qwen2_moe (V, C): the weights of Qwen1.5-MoE are not renormalised.
QWEN2_MOE_A2_7B = Layer(
    2048, 1408, 60, 4,
    routing=SOFTMAX,
    shared=Shared(5632, combine="gated"),
    name="qwen2-moe-a2.7b",
)  # fmt: skip

# transformers qwen3_moe (V), a third-party configuration (T). That the checkpoints
# renormalise is unverified; the class does not by default.
QWEN3_30B_A3B = Layer(
    2048, 768, 128, 8, routing=SOFTMAX_RENORMALIZED, name="qwen3-30b-a3b"
)

# As the 30B; the sizes are unverified.
QWEN3_235B_A22B = Layer(
    4096, 1536, 128, 8, routing=SOFTMAX_RENORMALIZED, name="qwen3-235b-a22b"
)

# transformers qwen3_next (V, C).
QWEN3_NEXT_80B = Layer(
    2048, 512, 512, 10,
    routing=SOFTMAX_RENORMALIZED,
    shared=Shared(512, combine="gated"),
    name="qwen3-next-80b",
)  # fmt: skip

# transformers qwen3_5_moe (S, C).
QWEN3_5_35B = Layer(
    2048, 512, 256, 8,
    routing=SOFTMAX_RENORMALIZED,
    shared=Shared(512, combine="gated"),
    name="qwen3.5-35b",
)  # fmt: skip

# The same class, a third-party configuration (T).
QWEN3_5_397B_A17B = Layer(
    4096, 1024, 512, 10,
    routing=SOFTMAX_RENORMALIZED,
    shared=Shared(1024, combine="gated"),
    name="qwen3.5-397b-a17b",
)  # fmt: skip

# transformers qwen4_exp (S, C).
QWEN4_EXP = Layer(
    2048, 512, 512, 10,
    routing=SOFTMAX_RENORMALIZED,
    shared=Shared(512, combine="gated"),
    name="qwen4-exp",
)  # fmt: skip

LAYERS = (
    QWEN2_MOE_A2_7B, QWEN3_30B_A3B, QWEN3_235B_A22B, QWEN3_NEXT_80B, QWEN3_5_35B,
    QWEN3_5_397B_A17B, QWEN4_EXP,
)  # fmt: skip
