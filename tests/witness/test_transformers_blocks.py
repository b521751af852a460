"""Every MoE block of transformers in the table, beside the oracle.

In float64 the experts must agree far below one fp32 rounding; routers that force fp32,
and whole blocks in their own types, must keep within the bounds of what they declare.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracle import bounds
from oracle.experts import combine
from oracle.moe import trace
from oracle.numerics import PRESETS, Numerics
from oracle.params import Params
from oracle.permutation import permute
from oracle.routing import route
from oracle.spec import Layer
from oracle.trace import Tap
from refmoe.peers.transformers import BLOCKS, port
from refmoe.peers.transformers.adapter import DTYPES, EXPERTS
from refmoe.peers.transformers.block import changed

TOKENS = 16
VOCABULARY = 11
#: Blocks whose other ways of running the experts are part of every run.
BRIEF = ("mixtral", "gpt_oss", "deepseek_v3", "nemotron_h")
#: Blocks whose experts force fp32 whatever the type of x.
FP32_EXPERTS = ("nemotron_h", "inkling2")


def _layer(name: str, dtype: str) -> Layer:
    """The block's own mathematics at its tiny size.

    A clamp is set where values reach it, sparsemixer's jitter where it keeps several.
    """
    layer = BLOCKS[name].layer
    if layer.activation.limit:
        layer = changed(layer, "activation.limit", 1.0)
    if layer.routing.method == "sparsemixer":
        layer = changed(layer, "routing.jitter", 0.4)
    return replace(
        layer, dtype=dtype, weights=dtype, activations=dtype, requantize=dtype
    )


class Draw:
    """Random tensors representable in bf16, so that no type of block rounds them."""

    def __init__(self, name: str, layer: Layer) -> None:
        self.random = torch.Generator().manual_seed(sum(name.encode()))
        self.layer, self.dtype = layer, DTYPES[layer.dtype]

    def normal(self, *shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=self.random).to(torch.bfloat16)
        return values.to(self.dtype)

    def inputs(self) -> dict[str, torch.Tensor]:
        """x, logits without ties, and token ids for hash routing."""
        columns = self.layer.logits_columns
        order = torch.rand(TOKENS, columns, generator=self.random).argsort(1)
        found = {
            "x": self.normal(TOKENS, self.layer.hidden),
            "logits": (order - columns / 2) / 4,
        }
        if self.layer.routing.method == "hash":
            ids = torch.randint(0, VOCABULARY, (TOKENS,), generator=self.random)
            found["token_ids"] = ids
        return found

    def params(self) -> Params:
        layer, normal = self.layer, self.normal
        e, h, i = layer.experts, layer.hidden, layer.intermediate
        found = {
            "gate_up": normal(e, layer.gate_up_rows, h),
            "down": normal(e, h, i),
        }
        if layer.expert_bias:
            found["gate_up_bias"] = normal(e, layer.gate_up_rows)
            found["down_bias"] = normal(e, h)
        if layer.routing.bias != "none":
            found["router_bias"] = normal(layer.routed_choices)
        if layer.routing.per_expert_scale:
            found["per_expert_scale"] = normal(layer.routed_choices)
        if layer.routing.method == "hash":
            order = torch.rand(VOCABULARY, e, generator=self.random).argsort(1)
            found["hash_table"] = order[:, : layer.top_k]
        if layer.shared is not None:
            activation = layer.shared.activation or layer.activation
            columns = layer.shared.intermediate
            found["shared_gate_up"] = normal(columns * (1 + activation.gated), h)
            found["shared_down"] = normal(h, columns)
            if layer.shared.combine == "gated":
                found["shared_gate"] = normal(h)
        params = Params(**found)
        params.check(layer)
        return params


def _assert_within(got: torch.Tensor, tap: Tap, what: str) -> None:
    far = (got.double() - tap.value).abs()
    worst = torch.zeros_like(far) if tap.worst is None else tap.worst
    index = int((far - worst).argmax())
    assert bool((far <= worst).all()), (
        f"{what}: {got.flatten()[index]} is {far.flatten()[index]} from "
        f"{tap.value.flatten()[index]}, bound {worst.flatten()[index]}"
    )


def _experts_only(name: str, numerics: Numerics) -> Numerics:
    """The declared arithmetic of everything behind a router whose result is given."""
    if name in FP32_EXPERTS:
        return numerics
    return PRESETS["reference"].but(combine_order="expert")


@pytest.mark.parametrize("name", BLOCKS)
def test_route_transformers(name: str) -> None:
    """Catches a bias in the weights, another epsilon, a scale in the wrong place."""
    block = port(BLOCKS[name])
    if not hasattr(block, "route"):
        pytest.skip("the block has no router of its own")
    layer = _layer(name, "fp64")
    draw = Draw(name, layer)
    params, inputs = draw.params(), draw.inputs()
    del inputs["x"]
    ids, weights = block.route(params=params, layer=layer, **inputs)
    _, numerics = block.declares(layer)
    logits = inputs.pop("logits")
    routed = route(logits, layer, params, numerics, **inputs)
    assert bool(routed.admissible.contains(ids).all())
    _assert_within(weights, routed.weights_for(ids), "weights")


@pytest.mark.parametrize("name", BLOCKS)
def test_moe_transformers_float64(name: str) -> None:
    """Catches gate and up exchanged, a missing + 1, the clamp on the wrong side ...

    Router results come from the block, so nothing here is rounded below float64, and
    the bound stays far below one fp32 rounding.
    """
    block = port(BLOCKS[name])
    layer = _layer(name, "fp64")
    draw = Draw(name, layer)
    params, inputs = draw.params(), draw.inputs()
    module = block.prepare(params, layer)
    got = block.moe(params=params, layer=layer, prepared=module, **inputs)
    x = inputs.pop("x")
    given = {}
    numerics = block.declares(layer)[1]
    if hasattr(block, "route"):
        ids, weights = block.route(params=params, layer=layer, **inputs)
        given = {"ids": ids, "weights": weights}
        if layer.routing.shared_logits == 0:
            numerics = _experts_only(name, numerics)
    logits = inputs.pop("logits")
    out = trace(layer, params, x, logits, numerics, given=given, **inputs)["out"]
    _assert_within(got, out, "out")
    if numerics.exp == PRESETS["reference"].exp and out.worst is not None:
        assert float((out.worst / out.value.abs().max()).max()) < 2.0**-24


def test_combine_torch_rounds_a_bf16_product_twice() -> None:
    """Catches a bound for one rounding: bf16 * fp32 is fp32 before it is bf16."""
    random = torch.Generator().manual_seed(0)
    down = torch.randn(3000, 300, generator=random).to(torch.bfloat16)
    weights = torch.rand(3000, 1, generator=random)
    ids = torch.zeros(3000, 1, dtype=torch.int64)
    numerics = Numerics(weighted="bf16", combine="bf16", combine_order="expert")
    once = bounds.exactly(down.double()), bounds.exactly(weights.double())
    tap = combine(once[0], permute(ids, 1), once[1], numerics)
    _assert_within((down * weights).to(torch.bfloat16), tap, "routed")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(
    ("name", "experts"),
    [
        pytest.param(
            name, experts,
            marks=[] if experts == "eager" or name in BRIEF else pytest.mark.long,
        )
        for name in BLOCKS
        for experts in EXPERTS
    ],
)  # fmt: skip
def test_moe_transformers_declared(name: str, experts: str, dtype: str) -> None:
    """Catches a declaration that promises more than the block's arithmetic keeps."""
    block = port(BLOCKS[name], experts)
    layer = _layer(name, dtype)
    draw = Draw(name, layer)
    params, inputs = draw.params(), draw.inputs()
    got = block.moe(params=params, layer=layer, **inputs)
    assert got.dtype == DTYPES[dtype]
    x, logits = inputs.pop("x"), inputs.pop("logits")
    computed, numerics = block.declares(layer)
    given = {}
    if hasattr(block, "route"):
        ids, weights = block.route(logits, params, layer, **inputs)
        routed = route(logits, computed, params, numerics, **inputs)
        assert bool(routed.admissible.contains(ids).all())
        _assert_within(weights, routed.weights_for(ids), "weights")
        given = {"ids": ids}
    taps = trace(computed, params, x, logits, numerics, given=given, **inputs)
    _assert_within(got, taps["out"], "out")
