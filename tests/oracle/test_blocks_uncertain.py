"""Quantised taps: sound for every value inside, exact where nothing is ambiguous."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.blocks import (
    PRESETS,
    admissible_blocks,
    dequantize,
    preset,
    quantize,
    quantize_tap,
)
from oracle.params import Blocks
from oracle.trace import Tap

DISTINCT = sorted(
    {replace(format, name=""): name for name, format in PRESETS.items()}.values()
)
#: One of each kind of scale and of meeting it.
KINDS = (
    "mxfp4", "mxfp4:deepgemm", "mxfp4:triton_kernels", "mxfp8_e4m3:even",
    "mxfp8_e5m2:rceil", "mxint8:ceil", "nvfp4", "nvfp4:te", "nvfp4:torchao",
    "nvfp4:modelopt", "fp8_block_128:transformers", "fp8_group_128:ue8m0_fp32",
    "fp8_group_128:sglang", "fp8_token:vllm", "fp8_tensor", "int8_token:sglang",
    "int4_group_32:bf16",
)  # fmt: skip


def _values(seed, rows=8, columns=256):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    powers = torch.randint(-6, 7, (rows, columns // 32, 1), generator=generator)
    x = (x.unflatten(1, (-1, 32)) * torch.exp2(powers.double())).flatten(1)
    x[1, :64] = 0
    x[2] *= 1e-30
    # Codes are most ambiguous on ties, scales on the thresholds of amax.
    x[3] = torch.tensor([0.25, 0.75, 2.5, 5.0, 1.25, 1.75, 3.5, 6.0]).repeat(
        columns // 8
    )
    x[4, ::32] = 448.0
    return x


def _inside(x, radius, seed):
    """Values within the radius: uniform, at either end, and in between at random."""
    generator = torch.Generator().manual_seed(seed)
    part = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 2 - 1
    yield x + part * radius
    yield x + torch.where(part > 0, 1.0, -1.0) * radius
    yield x + torch.where(part.abs() > 0.5, part.sign(), 0.0) * radius
    yield x + radius
    yield x - radius


@pytest.mark.parametrize("name", DISTINCT)
def test_quantize_tap_exact_value_stays_exact(name):
    x = _values(0, rows=16)
    blocks, tap = quantize_tap(Tap(x), name)
    assert tap.worst is None
    assert torch.equal(tap.value, dequantize(blocks))
    assert torch.equal(blocks.codes, quantize(x, name).codes)
    _, zero = quantize_tap(Tap(x, torch.zeros_like(x), torch.zeros_like(x)), name)
    assert zero.exact
    assert not zero.likely.any()
    codes, scales = admissible_blocks(Tap(x), blocks)
    assert codes.all()
    assert scales.all()


@pytest.mark.parametrize("relative", [1e-14, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("name", KINDS)
def test_quantize_tap_covers_every_value_inside(name, relative):
    x = _values(1)
    radius = x.abs() * relative
    radius[:, 7] += 1e-3 * relative
    tap = Tap(x, radius)
    _, found = quantize_tap(tap, name)
    for y in _inside(x, radius * (1 - 1e-9), seed=2):
        blocks = quantize(y, name)
        assert ((dequantize(blocks) - found.value).abs() <= found.worst).all()
        codes, scales = admissible_blocks(tap, blocks)
        assert codes.all()
        assert scales.all()


@given(st.integers(0, 2**32), st.sampled_from(KINDS), st.floats(-14, 0))
def test_quantize_tap_covers_random_radii(seed, name, power):
    generator = torch.Generator().manual_seed(seed)
    x = _values(seed % 1000, rows=6)
    radius = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    radius = radius**4 * 10.0**power
    radius[torch.rand(x.shape, generator=generator) < 0.5] = 0
    _, found = quantize_tap(Tap(x, radius), name)
    for y in _inside(x, radius * (1 - 1e-9), seed=seed + 1):
        blocks = quantize(y, name)
        assert ((dequantize(blocks) - found.value).abs() <= found.worst).all()
        codes, scales = admissible_blocks(Tap(x, radius), blocks)
        assert codes.all()
        assert scales.all()


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e4m3:rceil", "mxfp8_e4m3:even"])
def test_quantize_tap_unambiguous_where_far_from_boundaries(name):
    """Values in the middle of their rounding interval, amax off every threshold."""
    x = torch.tensor([5.5, -3.1, 2.1, 1.6, 0.9, -0.4, 0.1, 0.0]).repeat(4).double()
    for scale in (2.0**-20, 1.0, 2.0**60):
        tap = Tap(x * scale, x.abs() * scale * 1e-4 + scale * 1e-5)
        _, found = quantize_tap(tap, name)
        if name == "mxfp4":
            assert found.exact
        else:
            assert float((found.worst > 0).double().mean()) < 0.2


def test_quantize_tap_ambiguous_code_and_scale():
    """At a tie both codes, at a threshold both scales: the hull and no more."""
    x = torch.tensor([6.0, 2.5, 1.0] + [0.0] * 29).double()
    radius = torch.zeros_like(x)
    radius[1] = 1e-9
    _, found = quantize_tap(Tap(x, radius), "mxfp4:rceil")
    # 2.5 rounds to 2 or 3; the oracle's own answer is 2.
    assert found.value[1] == 2
    assert found.worst[1] == pytest.approx(1.0, abs=1e-12)
    assert not found.worst[[0, 2]].any()
    radius = torch.zeros_like(x)
    radius[0] = 1e-9
    _, found = quantize_tap(Tap(x, radius), "mxfp4:rceil")
    # Scale 1 gives 6, 2, 1; scale 2 gives 2.5 = 1.25 * 2 -> 2, 6 -> 6, 1 -> 1.
    assert found.exact
    x[1] = 1.5
    _, found = quantize_tap(Tap(x, radius), "mxfp4:rceil")
    # 1.5 is 1.5 under scale 1 and 0.75 -> 1 under scale 2: 2.
    assert found.value[1] == 1.5
    assert found.worst[1] == pytest.approx(0.5, abs=1e-12)


def test_quantize_tap_of_a_block_that_may_vanish():
    """Any scale down to the least is admissible; no value leaves the radius' reach."""
    x = torch.zeros(1, 64, dtype=torch.float64)
    radius = torch.full_like(x, 1e-3)
    x[0, 32:] = 1.0
    for name in ("mxfp4", "mxfp8_e4m3:deepgemm", "fp8_group_128:fp32", "nvfp4:te"):
        _, found = quantize_tap(Tap(x, radius), name)
        assert (found.worst[0, :32] <= 2e-3).all()
        assert (found.worst[0, :32] >= 0.9e-3).all() or name != "mxfp4"


def test_quantize_tap_unknown_radius():
    """An infinite radius reaches every value that the format has."""
    x = torch.ones(2, 32, dtype=torch.float64)
    radius = torch.zeros_like(x)
    for unknown in (torch.inf, torch.nan):
        radius[0, 3] = unknown
        _, found = quantize_tap(Tap(x, radius), "mxfp4")
        assert found.worst[0, 3] >= 6 * 2.0**125
        assert (found.worst[0, 4:] >= 1).all()
        assert not found.worst[1].any()


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4:te", "fp8_group_128"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_quantize_tap_bounds_beside_a_nan(name, bad):
    """A block that is not a number leaves the bounds of the others alone."""
    x = _values(10)
    x[7, 130] = bad
    format = replace(preset(name), nonfinite="propagate")
    radius = x.nan_to_num(1.0, 1.0).abs() * 1e-3
    _, found = quantize_tap(Tap(x, radius), format)
    start = 130 // format.block[1] * format.block[1]
    block = slice(start, start + format.block[1])
    assert found.value[7, block].isnan().all()
    clean = x.clone()
    clean[7, block] = 0
    calm = radius.clone()
    calm[7, block] = 0
    _, other = quantize_tap(Tap(clean, calm), format)
    others = torch.ones_like(x, dtype=torch.bool)
    others[7, block] = False
    assert torch.equal(found.worst[others], other.worst[others])
    assert (found.worst[others] > 0).any()


def test_quantize_tap_likely_within_worst():
    x = _values(3)
    tap = Tap(x, x.abs() * 1e-3, x.abs() * 1e-5, 1e-6)
    for name in ("mxfp4", "fp8_group_128", "nvfp4:te"):
        _, found = quantize_tap(tap, name)
        assert found.probability == 1e-6
        assert (found.likely <= found.worst).all()
        assert float((found.likely > 0).sum()) < float((found.worst > 0).sum()) or (
            name != "mxfp4"
        )


def test_quantize_tap_other_axis():
    x = _values(4, rows=64, columns=96)
    radius = x.abs() * 1e-3
    blocks, found = quantize_tap(Tap(x, radius), "mxfp4", axis=0)
    _, turned = quantize_tap(Tap(x.T.contiguous(), radius.T.contiguous()), "mxfp4")
    assert torch.equal(found.value, turned.value.T)
    assert torch.equal(found.worst, turned.worst.T)
    codes, scales = admissible_blocks(Tap(x, radius), blocks, axis=0)
    assert codes.shape == blocks.codes.shape
    assert scales.shape == blocks.scales.shape
    assert codes.all()
    assert scales.all()


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e4m3:rceil", "nvfp4:te", "fp8_token"])
def test_admissible_blocks_finds_each_wrong_byte(name):
    """Of an exact tap, one changed code or scale is the only one not admissible."""
    x = _values(5)
    blocks = quantize(x, name)
    wrong = blocks.codes.clone()
    wrong[5, 17] ^= 1
    changed = replace(blocks, codes=wrong)
    codes, scales = admissible_blocks(Tap(x), changed)
    assert (~codes).nonzero().tolist() == [[5, 17]]
    assert scales.all()
    stored = blocks.scales.clone()
    if stored.is_floating_point():
        stored[6, 0] *= 1 + 2.0**-23
    else:
        stored[6, 0] += 1
    _, scales = admissible_blocks(Tap(x), replace(blocks, scales=stored))
    assert (~scales).nonzero().tolist() == [[6, 0]]


def test_admissible_blocks_judges_codes_under_the_stored_scale():
    """A scale twice too large is wrong; its codes, right for it, are not."""
    x = _values(6)[5:6]
    other = quantize(x, "mxfp4:ceil")
    mine = Blocks(other.codes, other.scales, preset("mxfp4:floor"))
    codes, scales = admissible_blocks(Tap(x), mine)
    assert codes.all()
    assert not scales.any()


def test_admissible_blocks_signs_of_zero():
    x = torch.tensor([[6.0, -0.0, 0.0, -0.01] + [0.0] * 28], dtype=torch.float64)
    blocks = quantize(x, "mxfp4")
    unsigned = replace(blocks, codes=torch.where(blocks.codes == 8, 0, blocks.codes))
    codes, _ = admissible_blocks(Tap(x), unsigned)
    assert (~codes).nonzero()[:, 1].tolist() == [1, 3]
    codes, _ = admissible_blocks(Tap(x), unsigned, sign_of_zero=False)
    assert codes.all()
    radius = torch.zeros_like(x)
    radius[0, 3] = 0.02
    codes, _ = admissible_blocks(Tap(x, radius), unsigned)
    assert (~codes).nonzero()[:, 1].tolist() == [1]


def test_admissible_blocks_global_scale():
    x = _values(7)
    blocks = quantize(x, "nvfp4:te")
    doubled = replace(blocks, global_scale=blocks.global_scale * 2)
    assert not admissible_blocks(Tap(x), doubled)[1].any()
    assert admissible_blocks(Tap(x), blocks)[1].all()
    given_scale = blocks.global_scale * 2
    chosen = quantize(x, "nvfp4:te", global_scale=given_scale)
    codes, scales = admissible_blocks(Tap(x), chosen, global_scale=given_scale)
    assert codes.all()
    assert scales.all()


def test_admissible_blocks_nonfinite_by_class():
    x = _values(8)
    x[5, 40] = torch.nan
    format = replace(preset("mxfp8_e4m3:cublas_te"), nonfinite="propagate")
    for policy in ("propagate", "saturate"):
        blocks = quantize(x, replace(format, nonfinite=policy))
        codes, scales = admissible_blocks(Tap(x), replace(blocks, format=format))
        assert codes.all()
        assert scales.all()
    finite = quantize(x.nan_to_num(1.0), format)
    codes, _ = admissible_blocks(Tap(x), finite)
    assert (~codes).nonzero().tolist() == [[5, 40]]


@pytest.mark.parametrize("name", ["fp8_group_128", "nvfp4:te", "fp8_token:vllm"])
def test_quantize_tap_slack_covers_approximate_division(name):
    """Scales a little off, and codes made with them."""
    x = _values(9)
    slack = 2.0**-21
    tap = Tap(x)
    exact, found = quantize_tap(tap, name, slack=slack)
    assert not found.exact
    for error in (-slack, slack / 2, slack):
        off = x * (1 + error * 0.999)
        blocks = quantize(off, name, global_scale=exact.global_scale)
        # The same codes mean x times the error under scales that carry it.
        mine = replace(blocks, codes=quantize(x, name).codes)
        codes, scales = admissible_blocks(tap, mine, slack=slack)
        assert codes.all()
        assert scales.all()
        assert ((dequantize(mine) - found.value).abs() <= found.worst).all()
    _, power = quantize_tap(tap, "mxfp4", slack=slack)
    # Only where amax lies on a threshold of the scale rule.
    assert power.worst[5].any() == 0
    with pytest.raises(ValueError, match=r"slack=1\.5 is no relative error"):
        quantize_tap(tap, name, slack=1.5)


def test_admissible_blocks_refuses_other_shapes():
    blocks = quantize(torch.ones(2, 32), "mxfp4")
    with pytest.raises(ValueError, match=r"the tap has shape \(2, 64\), the codes"):
        admissible_blocks(Tap(torch.ones(2, 64).double()), blocks)
