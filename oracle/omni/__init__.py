"""The Omni layer: a product-key router over n * n experts of one neuron each."""

from oracle.omni.experts import OmniGradients, omni_experts, omni_experts_backward
from oracle.omni.router import OmniRouted, omni_route, omni_route_backward, side

__all__ = [
    "OmniGradients", "OmniRouted", "omni_experts", "omni_experts_backward",
    "omni_route", "omni_route_backward", "side",
]  # fmt: skip
