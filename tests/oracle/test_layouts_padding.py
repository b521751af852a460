"""Padding H and I: the layer computes the same, and the padding can be taken off."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.blocks import dequantize, preset, quantize
from oracle.layouts.padding import pad, pad_activations, unpad, unpad_activations
from oracle.moe import trace
from oracle.numerics import PRESETS, Numerics
from oracle.params import Blocks, Params, Streamed
from oracle.spec import Layer

REFERENCE = PRESETS["reference"].but(output="none")


def same(a: Params, b: Params) -> bool:
    """Whether all tensors of two sets of parameters are equal, bit for bit."""

    def equal(x: object, y: object) -> bool:
        if isinstance(x, Blocks) and isinstance(y, Blocks):
            return torch.equal(x.codes, y.codes) and torch.equal(x.scales, y.scales)
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return torch.equal(x, y)
        return x is None and y is None

    return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Params))


def in_integers(sample):
    """The sample with every number an integer, so that all sums are exact."""
    grow = {
        f.name: (getattr(sample.params, f.name) * 4).round()
        for f in fields(Params)
        if isinstance(getattr(sample.params, f.name), torch.Tensor)
    }
    x = (sample.x * 4).round()
    return replace(sample, params=replace(sample.params, **grow), x=x)


def padded_trace(sample, multiple, numerics=REFERENCE, **options):
    params, layer = pad(sample.params, sample.layer, multiple)
    params.check(layer)
    x = pad_activations(sample.x, multiple)
    return trace(layer, params, x, sample.logits, numerics, **options), layer


@pytest.mark.parametrize("multiple", [7, 128])
def test_pad_adds_exact_zeros_and_changes_no_bit(layer, make_sample, multiple):
    """Integers make every sum exact up to the activation, and from there on again.

    The elementary functions of PyTorch may differ by an ulp with an element's place in
    a vector: between the two stands the bound.
    """
    sample = in_integers(make_sample(layer))
    routed = trace(*sample.arguments, REFERENCE)
    given = {
        "ids": routed["ids"].value,
        "weights": torch.ones_like(routed["weights"].value),
    }
    plain = trace(*sample.arguments, REFERENCE, given=given)
    wide, wide_layer = padded_trace(sample, multiple, given=given)
    i = layer.intermediate
    gate_up = wide["gate_up"].value
    halves = gate_up.reshape(len(gate_up), -1, wide_layer.intermediate)
    assert torch.equal(halves[..., :i].flatten(1), plain["gate_up"].value)
    assert not halves[..., i:].any()
    intermediate = plain["intermediate"]
    moved = (wide["intermediate"].value[:, :i] - intermediate.value).abs()
    assert (moved <= intermediate.worst).all()
    assert not wide["intermediate"].value[:, i:].any()

    exact = (intermediate.value * 4).round()
    plain = trace(*sample.arguments, REFERENCE, given=given | {"intermediate": exact})
    given["intermediate"] = pad_activations(exact, multiple)
    wide, _ = padded_trace(sample, multiple, given=given)
    out = wide["routed"].value
    assert torch.equal(unpad_activations(out, layer.hidden), plain["routed"].value)
    assert not out[:, layer.hidden :].any()


def test_pad_keeps_the_output_within_its_own_bounds(layer, make_sample):
    sample = make_sample(layer, tokens=9)
    plain = trace(*sample.arguments, REFERENCE)["out"]
    wide, _ = padded_trace(sample, 128)
    got = wide["out"].value
    near = (got[:, : layer.hidden] - plain.value).abs() <= plain.worst
    assert near.all()
    assert not got[:, layer.hidden :].any()


@pytest.mark.parametrize("multiple", [1, 5, 24])
def test_unpad_takes_the_padding_off(layer, make_sample, multiple):
    params = make_sample(layer).params
    back = unpad(*pad(params, layer, multiple), layer.hidden, layer.intermediate)
    assert same(back[0], params)
    assert back[1] == layer


@pytest.mark.parametrize(
    "name",
    ["mxfp4", "nvfp4", "mxfp8_e4m3", "fp8_channel", "fp8_tensor", "int4_group_32"],
)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    multiple=st.sampled_from((32, 96, 128)),
)
def test_pad_of_blocks_dequantises_to_padded_values(name, rows, columns, multiple):
    kind = preset(name)
    layer = Layer(32 * columns, 32 * rows, 2, 1, weights=kind)
    generator = torch.Generator().manual_seed(rows + 4 * columns)

    def blocks(n: int, k: int) -> Blocks:
        return quantize(torch.randn(2, n, k, generator=generator), kind)

    params = Params(blocks(64 * rows, 32 * columns), blocks(32 * columns, 32 * rows))
    wide, wide_layer = pad(params, layer, multiple)
    wide.check(wide_layer)
    h, i = layer.hidden, layer.intermediate
    values = dequantize(wide.gate_up).reshape(2, 2, wide_layer.intermediate, -1)
    assert torch.equal(values[..., :i, :h].flatten(1, 2), dequantize(params.gate_up))
    assert not values[..., i:, :].any()
    assert not values[..., h:].any()
    down = dequantize(wide.down)
    assert torch.equal(down[:, :h, :i], dequantize(params.down))
    assert int(down.count_nonzero()) == int(dequantize(params.down).count_nonzero())
    back, back_layer = unpad(wide, wide_layer, h, i)
    assert same(back, params)
    assert back_layer == layer


def test_pad_of_quantised_activations_keeps_codes_and_scales(make_sample, layers):
    fp8 = preset("fp8_group_128:deepgemm_ue8m0")
    layer = replace(
        layers["gpt-oss"], hidden=128, intermediate=128, activations=fp8, requantize=fp8
    )
    sample = make_sample(layer)
    plain = trace(*sample.arguments, Numerics())
    wide, _ = padded_trace(sample, 384, Numerics())
    for tap in ("x_codes", "x_scales"):
        kept = wide[tap].value[:, : plain[tap].value.shape[1]]
        assert torch.equal(kept, plain[tap].value), tap
    assert not wide["x_codes"].value[:, 128:].any()
    near = (wide["out"].value[:, :128] - plain["out"].value).abs() <= plain["out"].worst
    assert near.all()


def test_pad_loads_streamed_weights_padded(make_sample, layers):
    sample = make_sample(layers["plain"])
    held = pad(sample.params, sample.layer, 24)[0]
    gate_up = sample.params.gate_up
    streamed = Streamed(lambda e: gate_up[e], gate_up.shape)
    params, layer = pad(replace(sample.params, gate_up=streamed), sample.layer, 24)
    params.check(layer)
    for expert in range(layer.experts):
        assert torch.equal(params.gate_up[expert], held.gate_up[expert])


def test_pad_refuses_blocks_across_gate_and_up(make_sample, layers):
    kind = preset("fp8_block_128")
    layer = replace(layers["plain"], hidden=256, intermediate=192, weights=kind)
    gate_up = quantize(torch.ones(6, 384, 256), kind)
    params = Params(gate_up, quantize(torch.ones(6, 256, 192), kind))
    with pytest.raises(ValueError, match="192 gate rows to 256 in blocks of 128"):
        pad(params, layer, 128)


def test_pad_refuses_sizes_with_a_remedy(make_sample, layers):
    sample = make_sample(layers["plain"])
    with pytest.raises(ValueError, match="multiple=0 is too small; give at least 1"):
        pad(sample.params, sample.layer, 0)
    with pytest.raises(ValueError, match="hidden=17 exceeds the padded 16"):
        unpad(sample.params, sample.layer, 17, 8)
    with pytest.raises(ValueError, match="hidden=17 exceeds the 16 columns of x"):
        unpad_activations(sample.x, 17)
