"""Small layers with ordinary random tensors, for tests of the oracle."""

from dataclasses import dataclass

import pytest
import torch

from oracle.params import Params
from oracle.spec import Activation, Layer, Routing, Shared


@dataclass(frozen=True)
class Sample:
    """A layer with its params and inputs."""

    layer: Layer
    params: Params
    x: torch.Tensor
    logits: torch.Tensor

    @property
    def arguments(self):
        """The first four arguments of `oracle.moe.trace`."""
        return self.layer, self.params, self.x, self.logits


WIDE = dict.fromkeys(("dtype", "weights", "activations", "requantize"), "fp64")
SIZES = {"hidden": 16, "intermediate": 8, "experts": 6, "top_k": 2, **WIDE}

#: One layer for each way in which layers differ; nothing is rounded on the way in.
LAYERS = {
    "plain": Layer(**SIZES),
    "renormalised": Layer(**SIZES, routing=Routing(renormalize="sum", scale=2.5)),
    "gpt-oss": Layer(
        **SIZES,
        routing=Routing(order="topk_then_score"),
        activation=Activation(alpha=1.702, beta=1.0, limit=7.0),
        expert_bias=True,
    ),
    "scale on the sum": Layer(
        **SIZES,
        routing=Routing("sigmoid", renormalize="sum", scale=1.5, scale_on="sum"),
        shared=Shared(8),
    ),
    "weight on the input": Layer(
        **{**SIZES, "top_k": 1},
        routing=Routing("sigmoid", "topk_then_score"),
        weight_on="input",
        shared=Shared(8),
    ),
    "weight on the intermediate": Layer(
        **SIZES,
        routing=Routing("sqrtsoftplus", bias="selection", renormalize="sum"),
        activation=Activation(limit=0.5),
        weight_on="intermediate",
        shared=Shared(8),
    ),
    "gated shared": Layer(**SIZES, shared=Shared(12, combine="gated")),
    "averaged shared": Layer(**SIZES, shared=Shared(12, combine="average")),
    "weighted shared": Layer(
        **SIZES,
        routing=Routing("sigmoid", renormalize="sum", shared_logits=2),
        shared=Shared(8, count=2, combine="weighted"),
    ),
    "zero experts": Layer(**SIZES, routing=Routing(zero_experts=3, scale=6.0)),
    "ungated": Layer(**SIZES, activation=Activation("relu2")),
    "per-expert scale": Layer(
        **SIZES,
        routing=Routing(renormalize="sum", per_expert_scale=True),
        activation=Activation("geglu_tanh"),
    ),
}


def sample(layer: Layer, tokens: int = 5, seed: int = 0, dtype=torch.float64) -> Sample:
    """Tensors for `layer`, drawn once in float64 and rounded to `dtype`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    e, h, i = layer.experts, layer.hidden, layer.intermediate
    shared = {}
    if layer.shared is not None:
        width = layer.shared.intermediate
        activation = layer.shared.activation or layer.activation
        shared = {
            "shared_gate_up": draw(width * (2 if activation.gated else 1), h),
            "shared_down": draw(h, width),
            "shared_gate": draw(h) if layer.shared.combine == "gated" else None,
        }
    params = Params(
        gate_up=draw(e, layer.gate_up_rows, h),
        down=draw(e, h, i),
        gate_up_bias=draw(e, layer.gate_up_rows) if layer.expert_bias else None,
        down_bias=draw(e, h) if layer.expert_bias else None,
        router_bias=draw(layer.routed_choices)
        if layer.routing.bias != "none"
        else None,
        per_expert_scale=(
            draw(layer.routed_choices).abs() if layer.routing.per_expert_scale else None
        ),
        **shared,
    )
    return Sample(layer, params, draw(tokens, h), draw(tokens, layer.logits_columns))


@pytest.fixture(params=LAYERS)
def layer(request) -> Layer:
    """Each of LAYERS in turn."""
    return LAYERS[request.param]


@pytest.fixture
def make_sample():
    """The function `sample`."""
    return sample


@pytest.fixture
def layers() -> dict[str, Layer]:
    """LAYERS by name."""
    return LAYERS
