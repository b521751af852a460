"""The oracle's whole layer against transformers' eager Mixtral block in float32."""

from __future__ import annotations

import torch

from oracle.moe import trace
from oracle.params import Params
from oracle.spec import Layer, Routing
from refmoe.bench.measure import Row, compare

#: Sizes of the comparison: T, and the layer's.
TOKENS = 128
LAYER = Layer(
    hidden=1024, intermediate=1024, experts=32, top_k=4, dtype="fp32", weights="fp32",
    activations="fp32", requantize="fp32", routing=Routing(renormalize="sum"),
    name="bench",
)  # fmt: skip


def run() -> list[Row]:
    """All taps with both bounds, at most 8 times the block that only computes.

    Raises ModuleNotFoundError where transformers is missing.
    """
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=LAYER.hidden,
        intermediate_size=LAYER.intermediate,
        num_local_experts=LAYER.experts,
        num_experts_per_tok=LAYER.top_k,
    )
    config._experts_implementation = "eager"
    block = MixtralSparseMoeBlock(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0, LAYER.hidden**-0.5, generator=generator)
    x = torch.randn(TOKENS, LAYER.hidden, generator=generator)
    weight = block.gate.weight.detach()
    params = Params(
        block.experts.gate_up_proj.detach(), block.experts.down_proj.detach()
    )

    def ours() -> object:
        return trace(LAYER, params, x, x @ weight.T)

    @torch.no_grad()
    def peer() -> object:
        return block(x[None])

    return [compare("layer float64, all taps and bounds", ours, peer, target=8.0)]
