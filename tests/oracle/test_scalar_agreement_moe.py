"""The two oracles compute the same layer: routed, shared and output of every form."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracle import blocks, moe
from oracle.numerics import PRESETS
from oracle.params import Blocks, Params
from oracle.scalar.blocks import Quantized
from oracle.scalar.blocks import dequantize as decoded
from oracle.scalar.experts import Expert, combine, routed_row
from oracle.scalar.interval import FLOAT64, precision
from oracle.scalar.keys import Undecided
from oracle.scalar.moe import Weights, forward
from oracle.spec import Activation, Layer, Routing, Shared

REFERENCE = PRESETS["reference"].but(output="fp64")
ACTIVATIONS = (
    Activation(),
    Activation(alpha=1.702, beta=1.0, limit=1.0),
    Activation(limit=0.5, clamp="after"),
    Activation("geglu_tanh"),
    Activation("geglu_erf"),
    Activation("softcap"),
    Activation("relu2"),
    Activation("silu"),
)
COMBINES = ("add", "gated", "average", "rsqrt2", "weighted")


@st.composite
def layers(draw, **fixed):
    """Layers that differ in every way after routing."""
    score = draw(st.sampled_from(["sigmoid", "sqrtsoftplus", "softmax"]))
    shared = None
    if draw(st.booleans()):
        own = draw(st.sampled_from([None, Activation(), Activation("relu2")]))
        shared = Shared(4, 2, draw(st.sampled_from(COMBINES)), own)
    weighted = shared is not None and shared.combine == "weighted"
    routing = Routing(
        "sigmoid" if weighted else score,
        draw(st.sampled_from(["score_then_topk", "topk_then_score"])),
        renormalize=draw(st.sampled_from(["none", "sum"])),
        scale=draw(st.sampled_from([1.0, 2.5])),
        scale_on=draw(st.sampled_from(["weights", "sum"])),
        per_expert_scale=draw(st.booleans()),
        zero_experts=draw(st.sampled_from([0, 0, 2])),
        shared_logits=2 if weighted else 0,
    )
    sizes = {"hidden": draw(st.integers(1, 4)), "intermediate": draw(st.integers(1, 3))}
    return Layer(
        **{**sizes, "experts": draw(st.integers(2, 4)), "top_k": 2, **fixed},
        routing=routing,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        weight_on=draw(st.sampled_from(["input", "intermediate", "output"])),
        expert_bias=draw(st.booleans()),
        shared=shared,
    )


@dataclass(frozen=True)
class Problem:
    """One layer's tensors, drawn from a seed."""

    layer: Layer
    params: Params
    x: torch.Tensor
    logits: torch.Tensor


def problem_of(layer, seed, tokens=2, own_numbers=False, weights=None):
    """Normal tensors; block-scaled weights where a format is named."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def weight(*shape):
        return (
            draw(*shape) if weights is None else blocks.quantize(draw(*shape), weights)
        )

    e, h, i = layer.experts, layer.hidden, layer.intermediate
    optional = {}
    if layer.expert_bias:
        optional |= {
            "gate_up_bias": draw(e, layer.gate_up_rows),
            "down_bias": draw(e, h),
        }
    if layer.routing.per_expert_scale:
        optional["per_expert_scale"] = draw(layer.routed_choices).abs()
    if own_numbers:
        optional |= {name: draw(e).abs() for name in ("alpha", "beta", "limit")}
    if layer.shared is not None:
        width = layer.shared.intermediate
        gated = (layer.shared.activation or layer.activation).gated
        optional |= {
            "shared_gate_up": draw(width * (1 + gated), h),
            "shared_down": draw(h, width),
        }
        if layer.shared.combine == "gated":
            optional["shared_gate"] = draw(h)
    params = Params(weight(e, layer.gate_up_rows, h), weight(e, h, i), **optional)
    x = draw(tokens, h).to(torch.bfloat16).double()
    return Problem(layer, params, x, draw(tokens, layer.logits_columns))


def matrix(weight, expert):
    """One expert's weight as numbers, decoded by the second oracle."""
    if not isinstance(weight, Blocks):
        return weight[expert].tolist()
    part = weight[expert]
    stored = Quantized(part.codes.tolist(), part.scales.tolist())
    return decoded(stored, weight.format)


def experts_of(params, layer):
    """Every routed expert as the second oracle takes it."""
    names = ("gate_up_bias", "down_bias", "alpha", "beta", "limit")
    tensors = {name: getattr(params, name) for name in names}
    return [
        Expert(
            matrix(params.gate_up, e),
            matrix(params.down, e),
            **{n: t[e].tolist() for n, t in tensors.items() if t is not None},
        )
        for e in range(layer.experts)
    ]


def weights_of(params, layer):
    """All of a layer's params as the second oracle takes them."""
    optional = {}
    if params.per_expert_scale is not None:
        optional["per_expert_scale"] = params.per_expert_scale.tolist()
    if params.shared_gate_up is not None:
        optional["shared"] = Expert(
            params.shared_gate_up.tolist(), params.shared_down.tolist()
        )
    if params.shared_gate is not None:
        optional["shared_gate"] = params.shared_gate.tolist()
    return Weights(experts_of(params, layer), **optional)


def within(values, regions):
    """Whether every element of [T, H] lies in its region."""
    return all(
        value in region
        for row, line in zip(values.tolist(), regions, strict=True)
        for value, region in zip(row, line, strict=True)
    )


def agree(problem):
    layer, params = problem.layer, problem.params
    taps = moe.trace(layer, params, problem.x, problem.logits, REFERENCE)
    assume(not taps["ids"].admissible.ambiguous.any())
    with precision(FLOAT64):
        try:
            stages = forward(
                problem.x.tolist(),
                problem.logits.tolist(),
                layer,
                weights_of(params, layer),
            )
        except Undecided:
            assume(False)
    assert taps["ids"].value.tolist() == [routed.ids for routed in stages.routed_to]
    assert within(taps["weights"].value, [r.weights for r in stages.routed_to])
    assert within(taps["routed"].value, stages.routed)
    if layer.shared is not None:
        assert within(taps["shared"].value, stages.shared)
    assert within(taps["out"].value, stages.out)


@settings(derandomize=True, max_examples=60)
@given(layer=layers(), seed=st.integers(0, 2**32), own=st.booleans())
def test_scalar_moe_agrees(layer, seed, own):
    agree(problem_of(layer, seed, own_numbers=own))


@pytest.mark.parametrize(
    ("weights", "activations", "requantize"),
    [
        ("mxfp4", "bf16", "bf16"),
        ("mxfp4", "mxfp8_e4m3", "mxfp8_e4m3:cublas_te"),
        ("fp8_block_128", "fp8_group_128", "fp8_group_128:ue8m0"),
        ("int8_channel", "int8_token", "int8_token"),
    ],
)
@settings(derandomize=True, max_examples=2)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_scalar_moe_agrees_on_quantised_layers(
    weights, activations, requantize, data, seed
):
    forms = {
        "activations": activations,
        "requantize": requantize,
        "weights": weights,
    }
    named = {
        name: form if form == "bf16" else blocks.preset(form)
        for name, form in forms.items()
    }
    sizes = {"hidden": 32, "intermediate": 32, "experts": 2, "top_k": 1}
    layer = data.draw(layers(**sizes, **named))
    agree(problem_of(layer, seed, tokens=1, weights=weights))


@settings(derandomize=True, max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_scalar_weighted_input_is_rounded_once(seed):
    """Catches x in a wider type that is rounded, weighted, and rounded again."""
    sizes = {"hidden": 3, "intermediate": 2, "experts": 2, "top_k": 1}
    problem = problem_of(Layer(**sizes, dtype="fp32", weight_on="input"), seed)
    agree(replace(problem, x=(problem.x / 3).float().double()))


@settings(derandomize=True, max_examples=40)
@given(layer=layers(experts=3), seed=st.integers(0, 2**32), data=st.data())
def test_scalar_experts_agree_on_given_ids(layer, seed, data):
    """Empty slots, repeated experts and identity experts, weighted by anything."""
    slots = st.integers(-1, layer.routed_choices - 1)
    ids = data.draw(st.lists(slots, min_size=2, max_size=2))
    weights = data.draw(st.lists(st.floats(-4, 4, width=16), min_size=2, max_size=2))
    problem = problem_of(layer, seed, tokens=1)
    given_taps = {"ids": torch.tensor([ids]), "weights": torch.tensor([weights])}
    taps = moe.trace(
        layer, problem.params, problem.x, problem.logits, REFERENCE, given=given_taps
    )
    (row,) = problem.x.tolist()
    with precision(FLOAT64):
        routed = routed_row(row, ids, weights, experts_of(problem.params, layer), layer)
    assert within(taps["routed"].value, [routed])
    if layer.shared is None:
        assert within(taps["out"].value, [combine(routed, None, layer)])
