"""What an MoE layer computes: frozen descriptions, no tensors.

A `Layer` names every choice that decides the layer's mathematics; how an implementation
may *round* on the way is `oracle.numerics.Numerics`. All fields are plain values, so a
description prints as the Python that builds it, compares by value and can be hashed.

Notation: T tokens, H hidden, I intermediate, E experts, k top_k.
"""

from oracle.spec.activation import GATED, Activation, ActivationKind, Clamp
from oracle.spec.blocks import (
    POWER_RULES,
    Apply,
    BlockFormat,
    Nonfinite,
    Recipe,
    Rounding,
    ScaleRule,
    ScaleType,
)
from oracle.spec.checks import at_least, choose
from oracle.spec.layer import PLAIN_TYPES, Layer, Shared, SharedCombine, WeightOn
from oracle.spec.routing import (
    Bias,
    GroupScore,
    MaskedFill,
    Method,
    Order,
    Renormalize,
    Routing,
    ScaleOn,
    Score,
)

__all__ = [
    "Layer", "Routing", "Activation", "Shared", "BlockFormat",
    "GATED", "PLAIN_TYPES", "POWER_RULES", "choose", "at_least",
    "ActivationKind", "Apply", "Bias", "Clamp", "GroupScore", "MaskedFill", "Method",
    "Nonfinite", "Order", "Recipe", "Renormalize", "Rounding", "ScaleOn", "ScaleRule",
    "ScaleType", "Score",
    "SharedCombine", "WeightOn",
]  # fmt: skip
