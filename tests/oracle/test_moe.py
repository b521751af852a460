"""The layer: stages agree with one call, with a plain loop, and with sampling."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from oracle.blocks import dequantize, preset, quantize
from oracle.moe import trace
from oracle.numerics import PRESETS, Numerics
from oracle.params import Params, Streamed
from oracle.spec import Layer, Routing, Shared

REFERENCE = PRESETS["reference"]


def radius(tap):
    """The worst case, zeros where there is none."""
    return torch.zeros_like(tap.value) if tap.worst is None else tap.worst


def activated(layer, gate_up, activation=None):
    """The activation by its formula, for the layers of conftest."""
    a = activation or layer.activation
    if a.kind == "relu2":
        return F.relu(gate_up) ** 2
    gate, up = gate_up.chunk(2, dim=-1)
    if a.kind == "geglu_tanh":
        return F.gelu(gate, approximate="tanh") * up
    if a.limit:
        gate, up = gate.clamp(max=a.limit), up.clamp(-a.limit, a.limit)
    return gate * torch.sigmoid(a.alpha * gate) * (up + a.beta)


def looped(sample, ids, weights, gammas=None):
    """The output token by token, choice by choice, from given ids and weights."""
    layer, params, x = sample.layer, sample.params, sample.x
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for expert, weight in zip(ids[token].tolist(), weights[token], strict=True):
            if expert < 0:
                continue
            if expert >= layer.experts:
                out[token] += weight * x[token]
                continue
            seen = x[token] * weight if layer.weight_on == "input" else x[token]
            hidden = params.gate_up[expert] @ seen
            if layer.expert_bias:
                hidden = hidden + params.gate_up_bias[expert]
            hidden = activated(layer, hidden)
            if layer.weight_on == "intermediate":
                hidden = hidden * weight
            y = params.down[expert] @ hidden
            if layer.expert_bias:
                y = y + params.down_bias[expert]
            out[token] += y * weight if layer.weight_on == "output" else y
    if layer.routing.scale_on == "sum":
        out = out * layer.routing.scale
    if layer.shared is None:
        return out
    hidden = activated(layer, x @ params.shared_gate_up.T)
    if layer.shared.combine == "weighted":
        width = layer.shared.intermediate // layer.shared.count
        hidden = hidden * gammas.repeat_interleave(width, dim=1)
    y = hidden @ params.shared_down.T
    if layer.shared.combine == "gated":
        y = y * torch.sigmoid(x @ params.shared_gate)[:, None]
    return (out + y) / 2 if layer.shared.combine == "average" else out + y


def test_trace_equals_a_loop_over_tokens_and_choices(layer, make_sample):
    sample = make_sample(layer)
    taps = trace(*sample.arguments, REFERENCE)
    gammas = None
    if layer.routing.shared_logits:
        scores = sample.logits.sigmoid()
        chosen = scores.gather(1, taps["ids"].value)
        extra = scores[:, layer.experts :]
        gammas = extra / (chosen.sum(1) + extra.sum(1))[:, None]
    want = looped(sample, taps["ids"].value, taps["weights"].value, gammas)
    out = trace(*sample.arguments, REFERENCE.but(output="none"))["out"]
    # The loop is an implementation in float64: it may err as much as one.
    assert ((out.value - want).abs() <= 2 * out.worst).all()
    # And the bound is no wider than that: the same rounded to float32 falls outside.
    narrow = want.to(torch.float32).double()
    assert ((narrow - out.value).abs() > out.worst).double().mean() > 0.5


def test_trace_resumes_from_any_of_its_own_taps(layer, make_sample):
    sample = make_sample(layer)
    whole = trace(*sample.arguments, REFERENCE)
    stages = ("ids", "weights", "gate_up", "intermediate", "down", "routed", "shared")
    for name in stages:
        if name not in whole:
            continue
        again = trace(*sample.arguments, REFERENCE, given={name: whole[name].value})
        assert torch.equal(again["out"].value, whole["out"].value), name
        assert (radius(again["out"]) <= radius(whole["out"])).all(), name


def test_trace_of_one_stage_leaves_out_what_comes_before(make_sample, layers):
    sample = make_sample(layers["gpt-oss"])
    whole = trace(*sample.arguments)
    given = {name: whole[name].value for name in ("ids", "weights", "down")}
    taps = trace(sample.layer, sample.params, sample.x, None, given=given)
    assert "gate_up" not in taps
    assert "scores" not in taps


def test_trace_of_sampled_rows_and_columns_is_part_of_the_whole(layer, make_sample):
    sample = make_sample(layer, tokens=9)
    rows, columns = torch.tensor([7, 2]), torch.tensor([3, 15, 0])
    whole = trace(*sample.arguments)["out"]
    part = trace(*sample.arguments, rows=rows, columns=columns)["out"]
    assert torch.equal(part.value, whole.value[rows][:, columns])
    assert torch.equal(part.worst, whole.worst[rows][:, columns])


@pytest.mark.parametrize("point", ["activations", "requantize"])
@pytest.mark.parametrize("name", ["nvfp4", "fp8_tensor", "nvfp4:te_2d", "mxfp4"])
def test_trace_of_sampled_rows_sees_scales_of_all(name, point, layers, make_sample):
    """Catches a global scale found from the rows that were asked for alone."""
    base = layers["weight on the input"].resized(hidden=32, intermediate=32)
    shared = Shared(32, weights=preset("mxfp4"))
    layer = replace(base, shared=shared, **{point: preset(name)})
    sample = make_sample(layer, tokens=16)
    params = replace(
        sample.params,
        shared_gate_up=quantize(sample.params.shared_gate_up, "mxfp4"),
        shared_down=quantize(sample.params.shared_down, "mxfp4"),
    )
    arguments = (layer, params, sample.x, sample.logits)
    rows = torch.tensor([7, 2, 2])
    whole, part = trace(*arguments), trace(*arguments, rows=rows)
    for tap in ("ids", "weights", "routed", "shared", "out"):
        assert torch.equal(part[tap].value, whole[tap].value[rows]), tap
    assert torch.equal(part["out"].worst, whole["out"].worst[rows])


def test_trace_of_no_tokens_is_empty(layer, make_sample):
    taps = trace(*make_sample(layer, tokens=0).arguments)
    assert taps["out"].value.shape == (0, layer.hidden)
    assert taps["offsets"].value.tolist() == [0] * (layer.experts + 1)


def test_trace_gives_nothing_to_slots_without_an_expert(make_sample, layers):
    sample = make_sample(layers["plain"], tokens=3)
    ids = torch.tensor([[-1, -1], [2, -1], [4, 4]])
    weights = torch.tensor([[float("nan"), 3.0], [0.5, float("inf")], [0.5, 0.25]])
    given = {"ids": ids, "weights": weights}
    out = trace(sample.layer, sample.params, sample.x, None, REFERENCE, given=given)
    want = looped(sample, ids, weights.double())
    assert out["routed"].value[0].eq(0).all()
    assert ((out["routed"].value - want).abs() <= 2 * out["routed"].worst).all()


def test_trace_keeps_a_non_finite_token_to_itself(layer, make_sample):
    sample = make_sample(layer)
    clean = trace(*sample.arguments)["out"].value
    x = sample.x.clone()
    x[2, 0] = float("nan")
    dirty = trace(sample.layer, sample.params, x, sample.logits)["out"].value
    assert dirty[2].isnan().any()
    others = [0, 1, 3, 4]
    assert torch.equal(dirty[others], clean[others])


def test_quantised_trace_keeps_a_non_finite_token_to_itself(make_sample):
    form = preset("mxfp8_e4m3")
    layer = Layer(64, 32, 4, 2, activations=form, requantize=form)
    sample = make_sample(layer)
    clean = trace(*sample.arguments)["out"].value
    for bad in (float("nan"), float("inf")):
        x = sample.x.clone()
        x[2, 0] = bad
        dirty = trace(layer, sample.params, x, sample.logits)["out"].value
        assert not dirty[2].isfinite().any()
        others = [0, 1, 3, 4]
        assert torch.equal(dirty[others], clean[others])


def test_routed_scale_is_applied_exactly_once(make_sample):
    sizes = {"hidden": 16, "intermediate": 8, "experts": 4, "top_k": 2}
    for place in ("weights", "sum"):
        outs = []
        for scale in (1.0, 4.0):
            routing = Routing(scale=scale, scale_on=place)
            sample = make_sample(Layer(**sizes, routing=routing, dtype="fp64"))
            outs.append(trace(*sample.arguments, REFERENCE)["out"].value)
        assert torch.equal(outs[1], 4 * outs[0])


def test_streamed_weights_give_the_same_trace(make_sample, layers):
    sample = make_sample(layers["gpt-oss"])
    whole = sample.params
    streamed = replace(
        whole,
        gate_up=Streamed(lambda e: whole.gate_up[e], whole.gate_up.shape),
        down=Streamed(lambda e: whole.down[e], whole.down.shape),
    )
    a = trace(*sample.arguments)
    b = trace(sample.layer, streamed, sample.x, sample.logits)
    assert torch.equal(a["out"].value, b["out"].value)


@pytest.mark.parametrize(
    "name", ["mxfp4", "mxfp8_e4m3", "nvfp4", "fp8_block_128:fp32", "int8_channel"]
)
def test_block_weights_equal_their_dequantised_tensors(make_sample, name):
    layer = Layer(
        hidden=128, intermediate=128, experts=2, top_k=1, weights=preset(name)
    )
    sample = make_sample(layer, tokens=3)
    blocks = Params(
        gate_up=quantize(sample.params.gate_up, preset(name)),
        down=quantize(sample.params.down, preset(name)),
    )
    plain = Params(gate_up=dequantize(blocks.gate_up), down=dequantize(blocks.down))
    numerics = Numerics(dequantized="fp64")
    a = trace(layer, blocks, sample.x, sample.logits, numerics)["out"]
    b = trace(layer, plain, sample.x, sample.logits, numerics)["out"]
    assert torch.equal(a.value, b.value)
    assert torch.equal(a.worst, b.worst)
    # Scales that are applied to partial sums add roundings of their own.
    c = trace(layer, blocks, sample.x, sample.logits)["out"]
    assert torch.equal(c.value, b.value)
    assert bool((c.worst >= b.worst).all())


def test_quantised_activations_leave_their_bytes_as_taps(make_sample):
    form = preset("mxfp8_e4m3")
    layer = Layer(64, 32, 4, 2, activations=form, requantize=form)
    sample = make_sample(layer, tokens=4)
    taps = trace(*sample.arguments)
    x = quantize(sample.x, form)
    assert torch.equal(taps["x_codes"].value, x.codes)
    assert torch.equal(taps["x_scales"].value, x.scales)
    names = ("intermediate_codes", "intermediate_scales")
    given = {name: taps[name].value for name in names}
    again = trace(*sample.arguments, given=given)
    assert "gate_up" not in again
    assert (radius(again["out"]) <= radius(taps["out"])).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(5, 9)}, ValueError, r"x has shape \(5, 9\).*\[T, 16\]"),
        ({"x": torch.zeros(5, 16).int()}, TypeError, "x is torch.int32; give a float"),
        ({"logits": torch.zeros(5, 7)}, ValueError, r"logits .*\(5, 7\).*\(5, 6\)"),
        ({"logits": None}, ValueError, "without logits, give both ids and weights"),
        ({"given": {"gate": torch.zeros(1)}}, ValueError, "no tap is called 'gate'"),
        (
            {"given": {"x_codes": torch.zeros(5, 16).byte()}},
            ValueError, "give x_codes and x_scales together",
        ),
    ],
)  # fmt: skip
def test_trace_refuses_inputs_that_do_not_fit(
    make_sample, layers, change, error, message
):
    sample = make_sample(layers["plain"])
    call = {"x": sample.x, "logits": sample.logits, **change}
    with pytest.raises(error, match=message):
        trace(sample.layer, sample.params, **call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"gate_up": torch.zeros(6, 15, 16)},
            r"gate_up has shape \(6, 15, 16\).*needs",
        ),
        ({"down": torch.zeros(5, 16, 8)}, r"down has shape \(5, 16, 8\)"),
        (
            {"gate_up_bias": None},
            "gate_up_bias is missing; the layer 'layer' declares it",
        ),
        ({"alpha": torch.ones(5)}, r"alpha has shape \(5,\)"),
    ],
)
def test_params_refuse_tensors_that_do_not_fit(make_sample, layers, change, message):
    sample = make_sample(layers["gpt-oss"])
    with pytest.raises(ValueError, match=message):
        replace(sample.params, **change).check(sample.layer)


def test_bounds_contain_a_float32_implementation(layer, make_sample):
    """The loop in float32 is a right implementation: it must lie inside."""
    types = dict.fromkeys(("dtype", "weights", "activations", "requantize"), "fp32")
    layer = replace(layer, **types)
    sample = make_sample(layer, tokens=7, dtype=torch.float32)
    taps = trace(*sample.arguments, Numerics(intermediate="fp32", output="fp32"))
    gammas = None
    if layer.routing.shared_logits:
        scores = sample.logits.sigmoid()
        chosen = scores.gather(1, taps["ids"].value)
        extra = scores[:, layer.experts :]
        gammas = extra / (chosen.sum(1) + extra.sum(1))[:, None]
    weights = taps["weights"].value.float()
    got = looped(sample, taps["ids"].value, weights, gammas)
    out = taps["out"]
    assert ((got.double() - out.value).abs() <= out.worst).all()
