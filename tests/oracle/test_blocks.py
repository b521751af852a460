"""Block formats: laws, shapes, policies and refusals."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.blocks import PRESETS, dequantize, preset, quantize
from oracle.formats import decode, get
from oracle.params import Blocks
from oracle.spec import BlockFormat

#: Presets that differ in more than their name.
DISTINCT = sorted(
    {replace(format, name=""): name for name, format in PRESETS.items()}.values()
)
MX = ("mxfp4", "mxfp6_e2m3", "mxfp6_e3m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxint8")


def _sample(*shape, seed=0, dtype=torch.float32, spread=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    powers = torch.randint(-spread, spread + 1, (*shape[:-1], 1), generator=generator)
    return (x * torch.exp2(powers.float())).to(dtype)


def _same(first, second):
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scales, second.scales)


@pytest.mark.parametrize("family", MX)
@pytest.mark.parametrize("rule", ["floor", "ceil", "even", "rceil"])
def test_quantize_takes_the_nearest_code(family, rule):
    """By search through all values under the stored scale, ties to the even code."""
    x = _sample(32, 64, seed=1).double()
    blocks = quantize(x, f"{family}:{rule}")
    entry = get(preset(family).element)
    grid = decode(torch.arange(2**entry.bits), entry.name)
    grid = grid[grid.isfinite() & (grid >= entry.lowest)].unique()
    scale = decode(blocks.scales, "e8m0").repeat_interleave(32, -1)[..., None]
    distance = (x[..., None] - grid * scale).abs()
    assert torch.equal(
        (x - dequantize(blocks)).abs(), distance.amin(-1)
    )  # every value and scale is a short binary fraction: no rounding here


@given(st.floats(2.0**-140, 2.0**120, width=32), st.sampled_from(MX))
def test_quantize_scale_definitions(amax, family):
    """rceil is the least power of two that avoids saturation; the order of rules."""
    x = torch.zeros(32)
    x[5] = -amax
    maximum = get(preset(family).element).maximum
    bytes_of = {
        rule: int(quantize(x, f"{family}:{rule}").scales)
        for rule in ("floor", "ceil", "even", "rceil")
    }
    rceil = 2.0 ** (bytes_of["rceil"] - 127)
    assert amax <= maximum * rceil
    assert bytes_of["rceil"] == 0 or amax > maximum * rceil / 2
    assert bytes_of["floor"] <= bytes_of["even"] <= bytes_of["ceil"]
    assert bytes_of["floor"] <= bytes_of["rceil"] <= bytes_of["ceil"]
    assert bytes_of["ceil"] - bytes_of["floor"] <= 1


def test_quantize_float64_keeps_the_last_bit():
    """A double just above 6 is above 6, however close."""
    x = torch.zeros(2, 32, dtype=torch.float64)
    x[0, 0], x[1, 0] = 6.0, 6.0 * (1 + 2.0**-50)
    assert quantize(x, "mxfp4:rceil").scales.tolist() == [[127], [128]]
    assert quantize(x.float(), "mxfp4:rceil").scales.tolist() == [[127], [127]]


@pytest.mark.parametrize("name", DISTINCT)
def test_quantize_same_bytes_from_every_type(name):
    """bf16 numbers quantise alike as bf16, fp32 and fp64, by table or by rounding."""
    x = _sample(128, 256, seed=2, dtype=torch.bfloat16)
    x[3] = 0
    x[5, :20] = -0.0
    blocks = quantize(x, name)
    _same(blocks, quantize(x.float(), name))
    _same(blocks, quantize(x.double(), name))
    # One number that fp32 lacks sends all others through float64.
    wide = x.double()
    wide[-1, -1] = wide[-1].abs().amin() / 3
    again = quantize(wide, name)
    assert torch.equal(again.codes[:-1], blocks.codes[:-1])
    assert torch.equal(again.scales, blocks.scales)


@pytest.mark.parametrize("name", DISTINCT)
def test_quantize_is_idempotent_in_value(name):
    """What was decoded quantises to itself, under the same scales."""
    x = _sample(128, 256, seed=3)
    blocks = quantize(x, name)
    once = dequantize(blocks)
    given_scale = blocks.global_scale
    again = quantize(once, name, global_scale=given_scale)
    changed = dequantize(again) != once
    if name.endswith((":floor", ":ocp")) or name in MX:
        assert not changed.any()
    # Elsewhere amax itself may have been rounded, and with it the block's scale.
    rows, columns = preset(name).block
    unchanged = (again.scales == blocks.scales).to(torch.uint8)
    spread = unchanged.repeat_interleave(columns or 256, -1)
    spread = spread.repeat_interleave(rows or 128, -2)[..., :256, :256].bool()
    assert not (changed & spread).any()


def test_quantize_fp16_source():
    x = _sample(8, 64, seed=4, dtype=torch.float16)
    _same(quantize(x, "mxfp4"), quantize(x.double(), "mxfp4"))


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e4m3:rceil", "nvfp4", "int8_token"])
@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 3, 64), (2, 2, 3, 64)])
def test_quantize_any_leading_shape(name, shape):
    x = _sample(*shape, seed=5)
    scale = 0.01 if preset(name).global_scale else None
    blocks = quantize(x, name, global_scale=scale)
    assert blocks.codes.shape == x.shape
    columns = preset(name).block[1] or 64
    assert blocks.scales.shape == (*shape[:-1], 64 // columns)
    flat = quantize(x.reshape(-1, 64), name, global_scale=scale)
    assert torch.equal(blocks.codes.reshape(-1, 64), flat.codes)
    assert dequantize(blocks).shape == x.shape
    assert torch.equal(dequantize(blocks).reshape(-1, 64), dequantize(flat))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_quantize_any_axis(axis):
    x = _sample(32, 64, 96, seed=6)
    blocks = quantize(x, "mxfp4:even", axis=axis)
    last = quantize(x.movedim(axis, -1).contiguous(), "mxfp4:even")
    assert torch.equal(blocks.codes.movedim(axis, -1), last.codes)
    assert torch.equal(blocks.scales.movedim(axis, -1), last.scales)
    assert blocks.scales.shape[axis] == x.shape[axis] // 32
    values = dequantize(blocks, axis=axis)
    assert torch.equal(values.movedim(axis, -1), dequantize(last))


@pytest.mark.parametrize("axis", [-1, -2])
def test_quantize_square_tiles_on_either_axis(axis):
    """A square tile holds the same elements whichever way the reduction runs."""
    x = _sample(256, 384, seed=7)
    blocks = quantize(x, "fp8_block_128", axis=axis)
    _same(blocks, quantize(x, "fp8_block_128"))
    tile = x[128:, 256:].abs().amax()
    assert blocks.scales[1, 2] == tile / 448


def test_quantize_views_and_chunks():
    """Strided input, and tensors of many chunks, row by row alike."""
    x = _sample(96, 8192, seed=8)
    whole = quantize(x.t().contiguous().t(), "mxfp4")
    assert torch.equal(whole.codes[40], quantize(x[40], "mxfp4").codes)
    _same(whole, quantize(x, "mxfp4"))
    values = dequantize(whole)
    parts = [dequantize(quantize(row, "mxfp4")) for row in x]
    assert torch.equal(values, torch.stack(parts))


def test_quantize_leaves_its_argument_alone():
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = _sample(128, 128, seed=9, dtype=dtype)
        before = x.clone()
        for name in ("mxfp4", "nvfp4:te", "fp8_block_128", "int8_token"):
            quantize(x, name)
        assert torch.equal(x, before)


def test_quantize_empty():
    for name in ("mxfp4", "nvfp4", "fp8_block_128", "fp8_tensor", "int8_token"):
        blocks = quantize(torch.empty(0, 256), name)
        assert blocks.codes.shape == (0, 256)
        assert dequantize(blocks).shape == (0, 256)


@pytest.mark.parametrize("name", ["fp8_block_128", "mxfp4:triton_kernels"])
def test_quantize_ragged_is_zero_padding(name):
    x = _sample(130, 300, seed=10)
    rows, columns = preset(name).block
    padded = torch.nn.functional.pad(x, (0, -300 % columns, 0, -130 % rows))
    blocks, full = quantize(x, name), quantize(padded, name)
    assert torch.equal(blocks.scales, full.scales)
    assert torch.equal(blocks.codes, full.codes[:130, :300])
    assert torch.equal(dequantize(blocks), dequantize(full)[:130, :300])


def test_quantize_per_tensor_scale_per_leading_index():
    x = _sample(3, 4, 32, seed=11)
    blocks = quantize(x, "fp8_tensor")
    assert blocks.scales.shape == (3, 1, 1)
    assert torch.equal(blocks.scales.flatten(), x.abs().amax((1, 2)) / 448)
    nv = quantize(x, "nvfp4")
    assert nv.global_scale.shape == (3,)
    assert torch.equal(nv[1].codes, quantize(x[1], "nvfp4").codes)
    assert torch.equal(dequantize(nv[1]), dequantize(nv)[1])


def test_quantize_zero_blocks():
    zeros = torch.zeros(2, 256)
    zeros[1] = -0.0
    for name, format in PRESETS.items():
        if format.block[0] > 2 and not format.ragged:
            continue
        blocks = quantize(zeros, name)
        values = dequantize(blocks)
        assert (values == 0).all()
        keeps = format.keep_negative_zero and get(format.element).kind == "float"
        assert values.signbit().tolist() == [[False] * 256, [keeps] * 256]


def test_quantize_minimum_byte_and_floor():
    x = torch.zeros(3, 32)
    x[0, 0], x[1, 0] = 2.0**-130, 1.0
    base = preset("mxfp4:rceil")
    assert quantize(x, base).scales.flatten().tolist() == [0, 125, 0]
    raised = replace(base, minimum_byte=3)
    assert quantize(x, raised).scales.flatten().tolist() == [3, 125, 3]
    zero = replace(raised, zero_scale=1.0)
    assert quantize(x, zero).scales.flatten().tolist() == [3, 125, 127]
    floored = replace(base, amax_floor=6.0)
    assert quantize(x, floored).scales.flatten().tolist() == [127, 127, 127]


def test_quantize_negative_zero():
    x = torch.tensor([-0.0, -0.01, 0.0, 6.0] + [0.0] * 28)
    assert quantize(x, "mxfp4").codes[:4].tolist() == [8, 8, 0, 7]
    dropped = replace(preset("mxfp4"), keep_negative_zero=False)
    for dtype in (torch.bfloat16, torch.float32):
        assert quantize(x.to(dtype), dropped).codes[:4].tolist() == [0, 0, 0, 7]
    beyond = x.double() + 1e-12
    assert quantize(-beyond, dropped).codes[:4].tolist() == [0, 0, 0, 15]


def test_quantize_underflow_of_an_fp32_scale():
    """amax / 448 below fp32: the scale is 0 and so is every code."""
    x = torch.full((1, 128), 2.0**-149)
    blocks = quantize(x, "fp8_group_128")
    assert blocks.scales.item() == 0
    assert not blocks.codes.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e5m2", "fp8_group_128", "nvfp4"])
def test_quantize_nonfinite_policies(bad, name):
    x = _sample(2, 256, seed=12)
    x[1, 130] = bad
    format = preset(name)
    with pytest.raises(ValueError, match=r"infinity, first in block \(1, .*clean x"):
        quantize(x, format)
    columns = format.block[1]
    start = 130 // columns * columns
    propagated = quantize(x, replace(format, nonfinite="propagate"))
    values = dequantize(propagated)
    assert values[1, start : start + columns].isnan().all()
    assert values[:, :start].isfinite().all()
    assert values[1, start + columns :].isfinite().all()
    saturated = quantize(x, replace(format, nonfinite="saturate"))
    got = dequantize(saturated)
    others = torch.ones(256, dtype=torch.bool)
    others[130] = False
    assert got[:, others].isfinite().all()
    element = get(format.element)
    code = decode(saturated.codes[1, 130], format.element)
    if bad != bad:
        assert code.isnan() if element.nan else float(code) == element.maximum
        clean = x.clone()
        clean[1, 130] = 0
        _same_scales = quantize(clean, format).scales
        assert torch.equal(saturated.scales, _same_scales)
    else:
        assert float(code) == element.maximum * (1 if bad > 0 else -1)


def test_dequantize_float32_rounds_once():
    blocks = quantize(_sample(64, 256, seed=13), "nvfp4:te")
    exact = dequantize(blocks)
    assert torch.equal(dequantize(blocks, dtype=torch.float32), exact.float())
    assert exact.dtype == torch.float64


def test_dequantize_nan_scales_and_byte_zero():
    codes = torch.tensor([[1] * 32, [2] * 32], dtype=torch.uint8)
    scales = torch.tensor([[0], [255]], dtype=torch.uint8)
    values = dequantize(Blocks(codes, scales, preset("mxfp4")))
    assert (values[0] == 2.0**-128).all()
    assert values[1].isnan().all()


def test_quantize_nvfp4_given_global_scale():
    x = _sample(4, 64, seed=14)
    scale = 2.0**-9
    blocks = quantize(x, "nvfp4", global_scale=scale)
    assert blocks.global_scale.item() == scale
    tensor = torch.tensor(scale)
    _same(blocks, quantize(x, "nvfp4", global_scale=tensor))
    experts = _sample(2, 4, 64, seed=15)
    both = quantize(experts, "nvfp4", global_scale=torch.tensor([scale, 2 * scale]))
    _same(both[1], quantize(experts[1], "nvfp4", global_scale=2 * scale))


def test_quantize_nvfp4_recipes_part_as_documented():
    """An outlier moves block scales by evaluation order; most codes stay."""
    generator = torch.Generator().manual_seed(16)
    x = torch.randn(512, 1024, generator=generator).to(torch.bfloat16)
    x[0, 0] = 3000.0
    found = {name: quantize(x, f"nvfp4:{name}") for name in ("te", "flashinfer")}
    moved = (found["te"].scales != found["flashinfer"].scales).sum()
    assert 0 < int(moved) < found["te"].scales.numel() / 50
    assert torch.equal(found["te"].global_scale, found["flashinfer"].global_scale)


def test_presets_are_named_and_distinct():
    assert all(format.name == name for name, format in PRESETS.items())
    assert preset("mxfp4") == replace(preset("mxfp4:floor"), name="mxfp4")
    assert preset("nvfp4:vllm") == replace(
        preset("nvfp4:flashinfer"), name="nvfp4:vllm"
    )
    for family in MX:
        rules = {quantize(_sample(64, 256), f"{family}:{rule}").scales.sum().item()
                 for rule in ("floor", "ceil", "even", "rceil")}  # fmt: skip
        assert len(rules) == 4


@pytest.mark.parametrize(
    "call,error,words",
    [
        (
            lambda: preset("mxfp4:rciel"),
            ValueError,
            "unknown block format 'mxfp4:rciel': near it are mxfp4:rceil",
        ),
        (
            lambda: preset("qqqq"),
            ValueError,
            "nothing is near it; families are mxfp4, mxfp6_e2m3",
        ),
        (
            lambda: quantize(torch.ones(32, dtype=torch.int32), "mxfp4"),
            TypeError,
            "x is torch.int32; give float64, float32, bfloat16 or float16",
        ),
        (
            lambda: quantize(torch.ones(2, 40), "mxfp4"),
            ValueError,
            "40 columns do not divide into blocks of 32 .mxfp4.; pad them, or take a "
            "format with ragged=True",
        ),
        (
            lambda: quantize(torch.ones(20, 32), "nvfp4:te_2d"),
            ValueError,
            "20 rows do not divide into blocks of 16",
        ),
        (
            lambda: quantize(torch.ones(2, 32), "mxfp4", axis=2),
            ValueError,
            r"axis=2 of shape \(2, 32\) does not exist; give one of the 2 axes",
        ),
        (
            lambda: quantize(torch.tensor(1.0), "mxfp4"),
            ValueError,
            r"axis=-1 of shape \(\) does not exist",
        ),
        (
            lambda: quantize(torch.ones(2, 32), "mxfp4", global_scale=1.0),
            ValueError,
            "mxfp4 has no global scale; leave global_scale out",
        ),
        (
            lambda: quantize(torch.ones(2, 32), "nvfp4", global_scale=0.0),
            ValueError,
            "global_scale=0.0 must be positive and finite",
        ),
        (
            lambda: quantize(torch.ones(2, 32), "nvfp4", global_scale=torch.ones(3)),
            ValueError,
            r"global_scale has shape \(3,\); give one number or one per leading index",
        ),
        (
            lambda: dequantize(quantize(torch.ones(32), "mxfp4"), dtype=torch.bfloat16),
            TypeError,
            "dtype=torch.bfloat16; take torch.float64 or float32",
        ),
        (
            lambda: dequantize(
                Blocks(
                    torch.zeros(2, 64, dtype=torch.uint8),
                    torch.zeros(2, 1, dtype=torch.uint8),
                    preset("mxfp4"),
                )
            ),
            ValueError,
            r"scales have shape \(2, 1\); these codes need \(2, 2\)",
        ),
        (
            lambda: dequantize(
                Blocks(
                    torch.full((1, 32), 0x77, dtype=torch.uint8),
                    torch.zeros(1, 1, dtype=torch.uint8),
                    preset("mxfp4"),
                )
            ),
            ValueError,
            "e2m1 has 4 bits, one code per element: unpack packed bytes first",
        ),
        (
            lambda: dequantize(
                Blocks(
                    torch.zeros(1, 32, dtype=torch.uint8),
                    torch.zeros(1, 2, dtype=torch.uint8),
                    preset("nvfp4"),
                )
            ),
            ValueError,
            "nvfp4 needs a global scale; the blocks have none",
        ),
        (
            lambda: dequantize(
                replace(
                    quantize(torch.ones(2, 32), "nvfp4"), global_scale=torch.ones(2)
                )
            ),
            ValueError,
            r"global_scale has shape \(2,\); give one number or one per leading",
        ),
        (
            lambda: dequantize(
                Blocks(
                    torch.zeros(1, 32),
                    torch.zeros(1, 1, dtype=torch.uint8),
                    preset("mxfp4"),
                )
            ),
            TypeError,
            "codes of e2m1 are torch.float32; view them as an integer type",
        ),
        (
            lambda: dequantize(
                Blocks(
                    torch.zeros(1, 32, dtype=torch.uint8),
                    torch.zeros(1, 1, dtype=torch.uint8).view(torch.float8_e8m0fnu),
                    preset("mxfp4"),
                )
            ),
            TypeError,
            "scales of mxfp4 are torch.float8_e8m0fnu; give torch.uint8",
        ),
        (
            lambda: quantize(torch.ones(32), BlockFormat("odd", "e9m9")),
            ValueError,
            "unknown element format 'e9m9'",
        ),
    ],
)
def test_blocks_refuse(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"amax_floor": -1.0}, "amax_floor=-1.0 must be finite and at least 0"),
        ({"amax_floor": torch.nan}, "amax_floor=nan must be finite"),
        ({"zero_scale": -0.5}, "zero_scale=-0.5 must be finite and at least 0"),
        ({"minimum_byte": 255}, "minimum_byte=255 leaves no E8M0 scale"),
        ({"minimum_byte": -1}, "minimum_byte=-1 is too small; give at least 0"),
        ({"maximum": 0.0}, "maximum=0.0 must be finite and above 0"),
        ({"scale": "e5m3"}, "scale='e5m3' is unknown; use one of 'e8m0'"),
        ({"scale_rule": "round"}, "scale_rule='round' is unknown"),
        ({"scale_rule": "divide"}, "scale_rule='divide' gives no power of two"),
        ({"rounding": "up"}, "rounding='up' is unknown"),
        ({"nonfinite": "keep"}, "nonfinite='keep' is unknown"),
        ({"apply": "multiply"}, "apply='multiply' is unknown"),
        ({"recipe": "amd"}, "recipe='amd' is unknown"),
        ({"global_scale": True}, "global_scale goes with e4m3 block scales, not e8m0"),
        ({"block": (1, -2)}, "block=-2 is too small; give at least 0"),
    ],
)
def test_block_format_refuses(changes, words):
    with pytest.raises(ValueError, match=words):
        BlockFormat("mine", "e2m1", **changes)
