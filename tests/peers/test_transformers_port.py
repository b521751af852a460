"""The adapter that makes transformers' blocks ports: refusals, injection, loading."""

from __future__ import annotations

import importlib.util
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from oracle.blocks import dequantize, preset, quantize
from oracle.params import Params
from oracle.spec import BlockFormat, Layer, Shared
from refmoe.case import Case
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.peers import defaults, transformers
from refmoe.peers.transformers import BLOCKS, port
from refmoe.peers.transformers.block import changed
from refmoe.peers.transformers.fill import _built
from refmoe.peers.transformers.logits import injected

PLAIN = dict.fromkeys(("dtype", "weights", "activations", "requantize"), "fp32")


def _layer(name: str) -> Layer:
    return replace(BLOCKS[name].layer, **PLAIN)


def _case(layer: Layer) -> SimpleNamespace:
    case = Case("moe")
    given = {field.name: getattr(case, field.name) for field in fields(Case)}
    return SimpleNamespace(**given, layer=layer)


@pytest.mark.parametrize("name", [*defaults(), "refmoe.peers.transformers:llama4"])
def test_ports_load_by_name(name: str) -> None:
    """Catches an attribute that no port has, and a default that does not exist."""
    loaded = load(name)
    assert loaded.ops
    assert ("experts" in loaded.ops) == (
        name.startswith("refmoe.peers.transformers") and "llama4" not in name
    )


def test_ports_name_another_way_of_running_experts() -> None:
    """Catches a suffix that silently gives the eager loop."""
    assert transformers.mixtral.name == "transformers:mixtral"
    other = transformers.mixtral_grouped_mm
    assert other.name == "transformers:mixtral_grouped_mm"
    assert other.numerics.combine == "fp32"
    assert transformers.mixtral.numerics.combine == "bf16"
    with pytest.raises(AttributeError, match="no block 'mixtrall'"):
        _ = transformers.mixtrall
    with pytest.raises(ValueError, match=r"experts='loop' is unknown; use one of"):
        port(BLOCKS["mixtral"], "loop")


@pytest.mark.parametrize("name", BLOCKS)
def test_ports_know_whose_experts_have_one_loop(name: str) -> None:
    """Catches a declaration of `grouped_mm` for a class that never dispatches to it."""
    block = BLOCKS[name]
    if block.eager:
        with pytest.raises(ValueError, match=f"the experts of {name} in their own"):
            port(block, "grouped_mm")
    if block.experts is not None:
        module, _ = _built(block, block.layer, "eager")
        forward = type(module.get_submodule(block.experts)).forward
        assert block.eager != hasattr(forward, "__wrapped__")


def _typed(line: str, dtype: str) -> Case:
    names = ("dtype", "weights", "activations", "requantize")
    return parse(line).but(**dict.fromkeys(names, dtype))


def test_supports_an_expert_twice_where_its_rows_add_up_as_declared() -> None:
    """Catches a declared order of roundings that index_add_ does not keep."""
    line = "experts model=mixtral-8x7b T=4 H=16 I=16 E=4 k=2 slots=twice"
    eager, other = port(BLOCKS["mixtral"]), port(BLOCKS["mixtral"], "batched_mm")
    for dtype in ("bf16", "fp16"):
        assert "two rows in fp32" in str(eager.supports(_typed(line, dtype)))
        assert other.supports(_typed(line, dtype)) is True
    assert eager.supports(_typed(line, "fp32")) is True


def test_supports_no_experts_whose_sum_the_block_scales() -> None:
    """Catches a routed sum without the scale that stands on it."""
    layer = _layer("minimax_m3")
    case = _case(layer)
    assert port(BLOCKS["minimax_m3"]).supports(case) is True
    case.op = "experts"
    reason = port(BLOCKS["minimax_m3"]).supports(case)
    assert reason == "scale=2.0; the block scales outside its experts"


def test_ports_name_the_extra_of_a_missing_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a bare ModuleNotFoundError from inside an adapter."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'refmoe\[peers\]' brings it"):
        load("refmoe.peers.transformers:mixtral")


def test_supports_a_model_whose_shared_expert_is_block_scaled() -> None:
    """Catches a port that is never run on the model which it is named after."""
    line = "moe model=deepseek-v3 T=4 H=128 I=128 E=16 k=4 regime=randn seed=0"
    shared = parse(line).layer.shared
    assert shared is not None
    assert isinstance(shared.weights, BlockFormat)
    assert port(BLOCKS["deepseek_v3"]).supports(parse(line)) is True


@pytest.mark.parametrize("name", BLOCKS)
def test_supports_its_own_layer_at_any_size(name: str) -> None:
    """Catches a table entry whose example its own code cannot compute."""
    layer = _layer(name)
    assert port(BLOCKS[name]).supports(_case(layer)) is True
    wider = layer.resized(hidden=40, experts=16)
    assert port(BLOCKS[name]).supports(_case(wider)) is True
    departed = wider
    for path, value in BLOCKS[name].departs.items():
        departed = changed(departed, path, value)
    block = port(BLOCKS[name])
    assert block.supports(_case(departed)) is True
    assert block.declares(departed)[0] == wider


@pytest.mark.parametrize(
    ("name", "path", "value", "reason"),
    [
        ("mixtral", "routing.score", "sigmoid", r"score='sigmoid'; .* 'softmax'"),
        ("mixtral", "shared", Shared(8), "shared.intermediate=8; .* None"),
        ("deepseek_v3", "shared", None, "shared=None; .* has Shared"),
        ("deepseek_v3", "shared.intermediate", 12, "a multiple of intermediate=8"),
        ("mistral4", "experts", 4, "groups of 1 expert; each must have at least 2"),
        ("deepseek_v4", "shared.intermediate", 16, "it must equal intermediate=8"),
        ("deepseek_v2", "top_k", 5, "the kept groups have 4 experts"),
        ("inkling", "shared.count", 1, "it must be 2"),
        ("gpt_oss", "activation.beta", 0.0, r"activation.beta=0.0; .* 1.0"),
        ("gpt_oss", "activation.limit", 0.0, "limit=0.0; the block always clamps"),
        ("glm5_next", "activation.limit", None, "limit=None; the block always clamps"),
        ("olmoe", "activations", "bf16", "activations='bf16'; the block has 'fp32'"),
    ],
)
def test_supports_names_the_first_difference(
    name: str, path: str, value: object, reason: str
) -> None:
    """Catches a block that is judged by a layer that it does not compute."""
    layer = changed(_layer(name), path, value)
    answer = port(BLOCKS[name]).supports(_case(layer))
    assert isinstance(answer, str)
    with pytest.raises(ValueError, match=reason):
        port(BLOCKS[name]).prepare(_params(layer), layer)


def _params(layer: Layer) -> Params:
    e, h, i = layer.experts, layer.hidden, layer.intermediate
    return Params(torch.ones(e, layer.gate_up_rows, h), torch.ones(e, h, i))


def test_prepare_refuses_a_parameter_that_it_would_round() -> None:
    """Catches a deviation that would be the adapter's and not the block's."""
    layer = replace(BLOCKS["mixtral"].layer, **dict.fromkeys(PLAIN, "bf16"))
    params = _params(layer)
    params.gate_up[0, 0, 0] = 1 + 2.0**-10  # type: ignore[index]
    with pytest.raises(ValueError, match=r"gate_up_proj .* not representable"):
        port(BLOCKS["mixtral"]).prepare(params, layer)


def test_prepare_runs_on_the_values_of_block_scaled_weights() -> None:
    """Catches codes taken for values, and activations declared as quantised."""
    layer = replace(
        BLOCKS["deepseek_v4"].layer.resized(hidden=32, intermediate=32),
        shared=Shared(32), weights=preset("mxfp4"), requantize=preset("fp8_token"),
    )  # fmt: skip
    block = port(BLOCKS["deepseek_v4"])
    random = torch.Generator().manual_seed(1)
    blocks = [
        quantize(torch.randn(8, rows, 32, generator=random), preset("mxfp4"))
        for rows in (64, 32)
    ]
    plain = {
        "router_bias": torch.zeros(8),
        "shared_gate_up": torch.zeros(64, 32),
        "shared_down": torch.zeros(32, 32),
    }
    module = block.prepare(Params(*blocks, **plain), layer)
    assert torch.equal(module.experts.gate_up_proj.double(), dequantize(blocks[0]))
    assert torch.equal(module.experts.down_proj.double(), dequantize(blocks[1]))
    assert block.declares(layer)[0].requantize == "bf16"


def test_route_needs_no_expert_weights() -> None:
    """Catches experts that are built and filled only to route."""
    layer = _layer("mixtral").resized(hidden=1 << 14, intermediate=1 << 14)
    nothing = torch.empty(layer.experts, 2 << 14, 1 << 14, device="meta")
    params = Params(nothing, nothing)
    logits = torch.arange(16.0).reshape(2, 8)
    ids, weights = port(BLOCKS["mixtral"]).route(logits, params, layer)
    assert ids.tolist() == [[7, 6, 5]] * 2
    torch.testing.assert_close(weights, torch.softmax(logits[:, [7, 6, 5]], 1))


def test_logits_injected_with_the_bias_of_the_linear_layer() -> None:
    """Catches logits that reach the router without its bias, or pass through zeros."""
    router = torch.nn.Linear(4, 3)
    logits = torch.tensor([[float("nan"), -float("inf"), -0.0]])
    with injected(router, logits):
        got = router(torch.ones(1, 4))
    torch.testing.assert_close(got, logits + router.bias, equal_nan=True)
    assert not router(torch.ones(1, 4)).isnan().any()


def test_logits_not_asked_for_are_an_error() -> None:
    """Catches a router that computes its logits in a way that injection misses."""
    with (
        pytest.raises(RuntimeError, match="Identity computed no logits"),
        injected(torch.nn.Identity(), torch.zeros(1, 3)) as _,
    ):
        pass
