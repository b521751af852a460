"""The two oracles quantise to the same bytes, under every preset."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import blocks as first
from oracle.scalar import blocks as second
from oracle.scalar.elements import decode, largest
from oracle.trace import Tap

#: Presets that differ in more than their name.
FORMATS = {}
for _preset in first.PRESETS.values():
    FORMATS.setdefault(replace(_preset, name=""), _preset)
NAMES = [format.name for format in FORMATS.values()]


def shape_of(format, draw):
    """A few rows of a few blocks, the whole axis short, ragged where allowed."""
    rows, columns = format.block
    n = rows if 1 < rows <= 16 else 2
    k = columns * draw(st.integers(1, 2)) if 1 < columns <= 32 else max(columns, 5)
    if format.ragged and columns > 1:
        k = draw(st.integers(1, 40) | st.just(columns + 1))
    return n, k


@st.composite
def problems(draw, format, broken=True):
    """fp32 numbers whose amax lies at and around the boundaries of the scale rules."""
    n, k = shape_of(format, draw)
    top = float(format.maximum or largest(format.element))
    peaks = [1.0, 1.5, 1.75, 1.9375, top, 7.0, 496.0, 1 / 3]
    exponent = draw(st.integers(-140, 119) | st.integers(-8, 8))
    peak = draw(st.sampled_from(peaks)) * 2.0**exponent
    inner = st.floats(-1, 1, width=32).map(lambda x: x * peak)
    special = st.sampled_from(
        [0.0, -0.0, peak, -peak, peak / 2, peak * 0.75, peak / 64]
    )
    pool = draw(st.lists(inner | special, min_size=1, max_size=9))
    flat = [pool[i * i % len(pool)] for i in range(n * k)]
    x = torch.tensor(flat, dtype=torch.float64).to(torch.float32).reshape(n, k)
    beside = draw(st.sampled_from([None, torch.inf, 0.0]))
    if beside is not None:
        limits = torch.tensor([peak, beside], dtype=torch.float32)
        x[0, 0] = torch.nextafter(limits[0], limits[1])
    if broken and draw(st.integers(0, 5)) == 0:
        x[-1, -1] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    return x


def by_class(rows):
    """Numbers as floats, NaN as a word."""
    return [["nan" if math.isnan(x) else float(x) for x in row] for row in rows]


def without_nan(codes, element):
    """Codes, those of NaN as a word: its payload is nobody's contract."""
    return [
        ["nan" if math.isnan(decode(code, element)) else code for code in row]
        for row in codes
    ]


def same_bytes(x, format, global_scale=None):
    got = first.quantize(x, format, global_scale=global_scale)
    want = second.quantize(x.tolist(), format, global_scale)
    codes = got.codes.tolist()
    assert without_nan(codes, format.element) == without_nan(want.codes, format.element)
    assert by_class(got.scales.double().tolist()) == by_class(want.scales)
    if format.global_scale:
        assert float(got.global_scale) == float(want.global_scale)
    values = by_class(first.dequantize(got).tolist())
    assert values == by_class(second.dequantize(want, format))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=3, derandomize=True)
@given(data=st.data())
def test_scalar_blocks_agree(name, data):
    format = first.preset(name)
    x = data.draw(problems(format))
    if format.nonfinite == "error" and not x.isfinite().all():
        for quantize in (first.quantize, lambda v, f: second.quantize(v.tolist(), f)):
            with pytest.raises(ValueError, match=r"NaN|nan|inf"):
                quantize(x, format)
    else:
        same_bytes(x, format)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("nvfp4")])
@settings(max_examples=6, derandomize=True)
@given(
    data=st.data(), exponent=st.integers(-20, 20), fraction=st.floats(1, 2, width=32)
)
def test_scalar_blocks_agree_under_a_given_global_scale(name, data, exponent, fraction):
    format = first.preset(name)
    if format.global_scale:
        x = data.draw(problems(format, broken=False))
        same_bytes(x, format, fraction * 2.0**exponent)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("nvfp4")])
def test_scalar_blocks_agree_on_zeros_beside_tiny_numbers(name):
    """The reciprocals overflow fp32, by torchao's recipe to Inf: 0 * Inf is NaN."""
    format = first.preset(name)
    x = torch.zeros(32, 16)
    x[0, 0] = 2.0**-111
    same_bytes(x, format)
    assert not first.quantize(x, format).codes[16:].any()


@pytest.mark.parametrize("name", ["nvfp4:torchao", "nvfp4:modelopt"])
@pytest.mark.parametrize("exponent", range(-149, -108))
def test_scalar_nvfp4_agrees_on_every_tiny_amax(name, exponent):
    """The global scale held at 2^-149, an infinite reciprocal, a divisor of zero."""
    x = torch.zeros(3, 16)
    x[0, 0], x[0, 1] = 2.0**exponent, -(2.0 ** max(exponent - 24, -149))
    x[1, 0], x[1, 1] = 2.0 ** max(exponent - 9, -149), -0.0
    same_bytes(x, first.preset(name))


def test_scalar_blocks_agree_on_every_bf16_amax():
    """All amax of one exponent under every power-of-two rule, and the extremes."""
    patterns = torch.cat(
        [
            torch.arange(0x3F80, 0x4000),
            torch.arange(0, 16),
            torch.arange(0x7F70, 0x7F80),
        ]
    ).to(torch.int16)
    amax = patterns.view(torch.bfloat16).float()[:, None]
    for name in (
        "mxfp4",
        "mxfp8_e4m3",
        "mxfp8_e5m2",
        "mxfp6_e2m3",
        "mxfp6_e3m2",
        "mxint8",
    ):
        for rule in ("floor", "ceil", "even", "rceil"):
            format = replace(first.preset(f"{name}:{rule}"), block=(1, 1))
            same_bytes(amax, format)


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("fp8_block")])
@settings(derandomize=True, max_examples=2)
@given(data=st.data(), seed=st.integers(0, 2**32), width=st.integers(1, 30))
def test_scalar_blocks_of_anything_near_lie_within_the_bounds(name, data, seed, width):
    """Blocks of a value inside a tap dequantise to a value inside the tap's result."""
    format = first.preset(name)
    x = data.draw(problems(format, broken=False))
    generator = torch.Generator().manual_seed(seed)
    radius = x.abs().double() * 2.0**-width
    moved = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    corner = moved.sign() if seed % 2 else moved
    near = x.double() + corner * radius
    scale = 0.125 if format.global_scale else None
    tap = first.quantize_tap(Tap(x.double(), radius), format, global_scale=scale)[1]
    blocks = second.quantize(near.tolist(), format, scale)
    values = second.dequantize(blocks, format)
    low, high = (tap.value - tap.worst).tolist(), (tap.value + tap.worst).tolist()
    for ends in zip(low, high, values, strict=True):
        for least, most, value in zip(*ends, strict=True):
            assert least <= value <= most
