"""Quantise and dequantise kernels against `oracle.blocks`, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from oracle import blocks as oracle
from oracle import formats
from oracle.blocks import PRESETS
from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.spec.blocks import POWER_RULES, Nonfinite
from refmoe.kernels.launch import Kernel
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.formats import format_struct
from refmoe.kernels.launchers.quantize import quantize

MXFP4 = PRESETS["mxfp4"]
#: One preset of each arithmetic: names and policies for NaN apart.
DISTINCT = list(
    {
        replace(f, name="", nonfinite="error"): name for name, f in PRESETS.items()
    }.values()
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Values of many binades, with zeros of both signs, whole blocks of them too."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    spread = torch.randint(-12, 12, (*shape[:-1], 1), generator=generator)
    x = torch.ldexp(x, spread)
    x[torch.rand(shape, generator=generator) < 0.1] = -0.0
    x.reshape(-1, shape[-1])[0] = 0.0
    return x.to(dtype)


def same(got: Blocks, want: Blocks) -> None:
    assert got.format == want.format
    for name in ("codes", "scales", "global_scale"):
        one, other = getattr(got, name), getattr(want, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype, name
            assert one.shape == other.shape, name
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def fitting(format: BlockFormat) -> tuple[int, int]:
    """A small shape with several blocks each way."""
    rows, columns = format.block
    return (6 * rows or 7, 4 * columns or 320) if rows < 128 else (130, 260)


def plain(blocks: Blocks) -> Blocks:
    """The same blocks with contiguous codes and scales."""
    codes, scales = blocks.codes.contiguous(), blocks.scales.contiguous()
    return replace(blocks, codes=codes, scales=scales)


@pytest.mark.parametrize("name", DISTINCT)
def test_quantize_equals_oracle(name: str, emulated: None) -> None:
    x = values(fitting(PRESETS[name]), torch.bfloat16)
    want = oracle.quantize(x, name)
    same(quantize(x, name), want)
    same(quantize(x, name, naive=True), want)


@pytest.mark.parametrize("name", [n for n in DISTINCT if n.startswith("nvfp4")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantize_nvfp4_at_tiny_amax(
    name: str, dtype: torch.dtype, emulated: None
) -> None:
    """Catches 0 * Inf under torchao's reciprocal, and a global scale of zero."""
    row = torch.tensor([1.0, -0.5, 0.25, 0.0, -0.0, -0.75, 2**-5, -(2.0**-9)] * 4)
    rows = torch.stack([row, row * 2.0**-7, row * 0]).double()
    x = rows.repeat_interleave(16, 0)
    for exponent in range(-149, -108, 3):
        tiny = (x * 1.75 * 2.0**exponent).to(dtype)
        want = oracle.quantize(tiny, name)
        same(quantize(tiny, name), want)
        same(quantize(tiny, name, naive=True), want)


def edges(maximum: float, mantissa: int) -> torch.Tensor:
    """Every bf16 magnitude; fp32 ones next to where scale rules change their mind."""
    bits = torch.arange(2**15, dtype=torch.int16).view(torch.bfloat16).float()
    points = torch.tensor(
        [1.0, 2 - 2.0 ** -(mantissa + 1), maximum], dtype=torch.float64
    )
    near = (points[:, None] * 2.0 ** torch.arange(-160, 128).double()).flatten().float()
    infinity = torch.tensor(math.inf)
    near = torch.cat([near, near.nextafter(infinity), near.nextafter(-infinity)])
    every = torch.cat([bits, near])
    return every[every.isfinite() & (every >= 0)]


FAMILIES = ("mxfp4", "mxfp8_e4m3", "mxint8")


@pytest.mark.parametrize(
    "name",
    [
        *(f"{family}:{rule}" for family in FAMILIES for rule in POWER_RULES),
        "fp8_group_128:ue8m0_fp32",
        "mxfp4:triton_kernels",
        "mxfp8_e4m3:vllm_torch",
        "fp8_group_128",
        "fp8_group_128:sglang",
        "int4_group_32:bf16",
    ],
)
def test_quantize_scales_every_amax(name: str, emulated: None) -> None:
    format = PRESETS[name]
    element = formats.get(format.element)
    amax = edges(format.maximum or element.maximum, element.mantissa)
    x = torch.zeros(len(amax), 8 if format.ragged else format.block[1])
    x[:, 1], x[:, 2], x[:, 3] = -amax, amax / 3, amax / 7
    same(quantize(x, name), oracle.quantize(x, name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "name", ["mxfp8_e4m3:rceil", "nvfp4", "int8_token", "fp8_tensor"]
)
def test_quantize_takes_other_types(
    name: str, dtype: torch.dtype, emulated: None
) -> None:
    x = values((6, 1024), dtype)
    want = oracle.quantize(x, name)
    same(quantize(x, name), want)
    same(quantize(x, name, naive=True), want)


@pytest.mark.parametrize("name", DISTINCT)
def test_dequantize_equals_oracle(name: str, emulated: None) -> None:
    x = values(fitting(PRESETS[name]), torch.float32, seed=2)
    blocks = plain(oracle.quantize(x, name))
    want = oracle.dequantize(blocks).to(torch.bfloat16)
    for naive in (False, True):
        got = dequantize(blocks, dtype=torch.bfloat16, naive=naive)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("naive", [False, True])
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "fp8_token", "fp8_tensor"])
def test_dequantize_rounds_once(name: str, naive: bool, emulated: None) -> None:
    """Every code under scales at both ends of the range, where fp32 itself rounds."""
    format = PRESETS[name]
    bits = formats.get(format.element).bits
    codes = torch.arange(2**bits, dtype=torch.uint8).repeat(6, 32 if bits == 4 else 2)
    count = codes.shape[1] // (format.block[1] or codes.shape[1])
    if format.scale == "e8m0":
        scales = torch.arange(6 * count).reshape(6, count) * 8 % 256
        scales = scales.to(torch.uint8)
    elif format.scale == "e4m3":
        scales = (torch.arange(6 * count).reshape(6, count) % 128).to(torch.uint8)
    else:
        extremes = [1e-45, 3e-44, 1.1754944e-38, 0.1, 3e35, 3.4e38]
        scales = torch.tensor(extremes).reshape(6, 1)
        scales = scales if format.block == (1, 0) else scales[3:4]
    whole = torch.tensor(3e-39 / 7) if format.global_scale else None
    blocks = Blocks(codes, scales, format, whole)
    exact = oracle.dequantize(blocks)
    for dtype, target in zip(DTYPES, ("bf16", "fp16", "fp32"), strict=True):
        got = dequantize(blocks, dtype=dtype, naive=naive)
        want = formats.round_to(exact, target)
        torch.testing.assert_close(got.double(), want, rtol=0, atol=0, equal_nan=True)


SHAPES = [
    ("mxfp8_e4m3", (2, 3, 5, 64)),
    ("mxfp4", (96,)),
    ("nvfp4", (3, 4, 48)),
    ("nvfp4:te_2d", (2, 32, 48)),
    ("fp8_block_128", (2, 130, 200)),
    # Two blocks, both cut short, with as many values as a whole one.
    ("fp8_block_128", (256, 64)),
    ("fp8_group_128", (3, 131)),
    ("mxfp4:deepgemm", (5, 47)),
    ("fp8_tensor", (3, 70, 100)),
    ("fp8_tensor", (2, 7, 1001)),
    ("fp8_token", (3, 1000)),
    ("int8_token", (2, 5, 33)),
    ("int8_token:sglang", (4, 513)),
]


@pytest.mark.parametrize(("name", "shape"), SHAPES, ids=str)
def test_quantize_takes_any_shape(
    name: str, shape: tuple[int, ...], any_order: None
) -> None:
    x = values(shape, torch.bfloat16, seed=3)
    same(quantize(x, name), oracle.quantize(x, name))


@pytest.mark.parametrize(("name", "shape"), SHAPES[:8], ids=str)
def test_quantize_takes_unaligned_tensors(
    name: str, shape: tuple[int, ...], emulated: None
) -> None:
    room = torch.empty(math.prod(shape) + 1, dtype=torch.bfloat16)
    x = room[1:].view(shape).copy_(values(shape, torch.bfloat16, seed=4))
    blocks = quantize(x, name)
    same(blocks, oracle.quantize(x, name))
    codes = torch.empty(math.prod(shape) + 1, dtype=blocks.codes.dtype)
    codes = codes[1:].view(shape).copy_(blocks.codes)
    moved = replace(blocks, codes=codes)
    assert torch.equal(dequantize(moved), dequantize(blocks))


@pytest.mark.parametrize("nonfinite", ["propagate", "saturate"])
@pytest.mark.parametrize(
    "name", ["mxfp4", "mxfp8_e5m2", "nvfp4", "fp8_tensor", "fp8_token",
             "fp8_group_128:sglang", "int8_token"],
)  # fmt: skip
@pytest.mark.parametrize("naive", [False, True])
def test_quantize_treats_nonfinite_as_the_oracle(
    name: str, nonfinite: Nonfinite, naive: bool, emulated: None
) -> None:
    format = replace(PRESETS[name], nonfinite=nonfinite)
    x = values((4, 5, 1024), torch.float32, seed=5)
    x[0, 1, 3], x[1, 2, 70], x[2, 3, 500] = math.nan, math.inf, -math.inf
    x[3, 4, 10], x[3, 4, 11] = math.nan, -math.inf
    same(quantize(x, format, naive=naive), oracle.quantize(x, format))


@pytest.mark.parametrize("naive", [False, True])
def test_quantize_takes_a_given_global_scale(naive: bool, emulated: None) -> None:
    x = values((2, 4, 64), torch.bfloat16, seed=6)
    each = torch.tensor([0.01, 3.0])
    for given in (0.02, torch.tensor(0.5), each):
        got = quantize(x, "nvfp4", global_scale=given, naive=naive)
        same(got, oracle.quantize(x, "nvfp4", global_scale=given))


@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0,), (2, 0, 32), (0, 4, 32)])
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "fp8_token", "fp8_tensor"])
def test_quantize_of_nothing(name: str, shape: tuple[int, ...], emulated: None) -> None:
    x = torch.empty(shape, dtype=torch.bfloat16)
    got = quantize(x, name)
    if name == "nvfp4":
        assert got.global_scale is not None
        assert torch.equal(got.global_scale, torch.ones(shape[:-2]))
    else:
        same(got, oracle.quantize(x, name))
    assert dequantize(got).shape == x.shape


def test_quantize_indexes_with_the_index_type(emulated: None) -> None:
    """Narrowed to 16 bits, offsets wrap past 2^16 vectors."""
    x = torch.ones(5, 2**17, dtype=torch.bfloat16)
    whole = quantize(x, "mxfp8_e4m3")
    assert bool((whole.codes == whole.codes[0, 0]).all())
    narrow = torch.zeros_like(whole.codes)
    format = PRESETS["mxfp8_e4m3"]
    expression = "quantize_groups<bf16, element::e4m3, kNearestEven, kPower, 4, u16>"
    chunks = x.numel() // 8 // 1024
    Kernel("quantize.cu", expression)(
        chunks, 256, x, narrow, whole.scales.clone(), None,
        format_struct(format, 1, 32), x.numel(), np.int32(chunks), device=x.device,
    )  # fmt: skip
    assert not torch.equal(narrow, whole.codes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quantize(torch.zeros(2, 33), "mxfp4"), ValueError,
         r"33 columns do not divide into blocks of 32 \(mxfp4\); pad them"),
        (lambda: quantize(torch.zeros(2, 32).double(), "mxfp4"), TypeError,
         "quantize: x is float64; convert it to bfloat16, float16, float32"),
        (lambda: quantize(torch.zeros(()), "mxfp4"), ValueError, "no blocks; give"),
        (lambda: quantize(torch.zeros(64, 2).t(), "mxfp4"), ValueError,
         r"pass x\.contiguous\(\)"),
        (lambda: quantize(torch.zeros(2, 32), "mxfp4", global_scale=1.0), ValueError,
         "mxfp4 has no global scale; leave global_scale out"),
        (lambda: quantize(torch.zeros(2, 32), "nvfp4", global_scale=-1.0), ValueError,
         "global_scale=-1.0 must be positive"),
        (lambda: quantize(torch.zeros(2, 32), "nvfp4", global_scale=torch.ones(3)),
         ValueError, r"global_scale has shape \(3,\); give one number or one per"),
        (lambda: quantize(torch.zeros(2, 32), "mxfp5"), ValueError, "unknown block"),
        (lambda: quantize(torch.zeros(2, 32), replace(MXFP4, maximum=0.1)),
         ValueError, "maximum=0.1 is no fp32 number"),
        (lambda: quantize(torch.zeros(2, 32), replace(MXFP4, zero_scale=3.0)),
         ValueError, "zero_scale=3.0 is no power of two"),
        (lambda: dequantize(blocks(), dtype=torch.float64), TypeError,
         "take float32, bfloat16 or float16"),
        (lambda: dequantize(replace(blocks(), scales=torch.zeros(2, 2))), TypeError,
         "scales is float32; convert it to uint8"),
        (lambda: dequantize(replace(blocks(), codes=blocks().codes[:1])), ValueError,
         r"scales has shape \(2, 1\); it must be \[1, 1\]"),
        (lambda: dequantize(replace(blocks(), format=PRESETS["nvfp4"], scales=two())),
         ValueError, "nvfp4 needs a global scale; the blocks have none"),
    ],
)  # fmt: skip
def test_quantize_refuses(
    call: Callable[[], object], error: type[Exception], message: str, emulated: None
) -> None:
    with pytest.raises(error, match=message):
        call()


def blocks() -> Blocks:
    return oracle.quantize(torch.ones(2, 32), "mxfp4")


def two() -> torch.Tensor:
    return torch.zeros(2, 2, dtype=torch.uint8)
