"""Routings and activations that several families share."""

from __future__ import annotations

from oracle.spec import Activation, Routing

#: Softmax over all experts; the chosen weights as they are, or divided by their sum.
SOFTMAX = Routing()
SOFTMAX_RENORMALIZED = Routing(renormalize="sum")
#: The k largest logits, softmax over those alone.
SOFTMAX_OF_CHOSEN = Routing(order="topk_then_score")
#: Sigmoid, a bias on the selection, weights divided by their sum ...
SIGMOID = Routing("sigmoid", bias="selection", renormalize="sum")
#: ... plus 1e-20.
SIGMOID_EPSILON = Routing(
    "sigmoid", bias="selection", renormalize="sum_plus_epsilon", epsilon=1e-20
)
#: DeepSeek-V3's router without groups; a group's score is the sum of its best two.
NOAUX = Routing(
    "sigmoid",
    bias="selection",
    renormalize="sum_plus_epsilon",
    epsilon=1e-20,
    group_score="top2",
)

#: The gate clamped from above, up from both sides, and 1 added to up.
GPT_OSS_SWIGLU = Activation(alpha=1.702, beta=1.0, limit=7.0)
#: Plain SwiGLU of clamped gate and up.
CLAMPED_SWIGLU = Activation(limit=10.0)
