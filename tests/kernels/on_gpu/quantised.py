"""Element and block formats, equal bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch
from on_gpu.place import DTYPES, Place, name_of
from on_gpu.report import Check, equal

from oracle import blocks, formats, permutation
from oracle.blocks import PRESETS
from oracle.blocks.grouped import grouped_quantize as reference_grouped
from oracle.layouts.scale_tiles import swizzle_grouped
from oracle.params import Blocks
from refmoe.kernels.launch import Kernel, blocks_for
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.formats import ROUNDINGS
from refmoe.kernels.launchers.grouped import grouped_quantize
from refmoe.kernels.launchers.quantize import quantize


def conversions(place: Place) -> Iterator[Check]:
    """Every bf16 value through every element format and rounding; every code back."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16).float().to(place.device)

    def run(expression: str, given: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        out = torch.empty(given.shape, dtype=dtype, device=given.device)
        count = given.numel()
        Kernel("convert.cu", expression)(
            blocks_for(count, 256), 256, given, out, count, device=given.device
        )
        return out

    def encoded(name: str, rounding: str) -> None:
        storage = formats.get(name).storage
        expression = f"encode_elements<element::{name}, {ROUNDINGS[rounding]}>"
        want = formats.encode(values, name, rounding)  # type: ignore[arg-type]
        equal(run(expression, values, storage), want)

    def encoded_shortly(name: str, short: bool, four: bool) -> None:
        finite = values[values.isfinite()].contiguous()
        options = f"{short}, {four}".lower()
        expression = f"encode_finite_elements<element::{name}, {options}>"
        got = run(expression, finite, formats.get(name).storage)
        equal(got, formats.encode(finite, name))

    def divided() -> None:
        generator = torch.Generator().manual_seed(0)
        count = 2**22 if place.large else 2**14
        x, s = (
            torch.ldexp(1 + torch.rand(count, generator=generator), torch.tensor(shift))
            for shift in (0, -7)
        )
        x, s = x.to(place.device), s.to(place.device)
        got = torch.empty_like(x)
        Kernel("convert.cu", "quotient_elements<false>")(
            blocks_for(count, 256), 256, x, s, got, count, device=x.device
        )
        equal(got, (x.double() / s.double()).float())

    def decoded(name: str) -> None:
        codes = torch.arange(2 ** formats.get(name).bits, dtype=torch.int32)
        codes = codes.to(torch.uint8).to(place.device)
        got = run(f"decode_elements<element::{name}>", codes, torch.float32)
        equal(got, formats.decode(codes, name).float())

    def widened(name: str) -> None:
        given = bits.to(place.device).view(DTYPES[name])
        equal(run(f"widen_elements<{name}>", given, torch.float32), given.float())

    def rounded(name: str) -> None:
        """Every value of the type, each middle of two, and fp32's beside a middle."""
        one, other = (
            (bits + step).to(place.device).view(DTYPES[name]).float() for step in (0, 1)
        )
        middle = one / 2 + other / 2
        middle = middle[middle.isfinite()]
        sides = [torch.nextafter(middle, middle * end) for end in (0, math.inf)]
        given = torch.cat((one, middle, *sides))
        got = run(f"round_elements<{name}>", given, DTYPES[name])
        equal(got.double(), formats.round_to(given.double(), name))

    for name in ("bf16", "fp16"):
        yield f"widened {name}", lambda n=name: widened(n)
        yield f"rounded {name}", lambda n=name: rounded(n)
    for name in ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8", "int4", "mxint8"):
        for rounding in ROUNDINGS:
            yield f"encode {name} {rounding}", lambda n=name, r=rounding: encoded(n, r)
        yield f"decode {name}", lambda n=name: decoded(n)
        for short, four in product((False, True), repeat=2):
            yield (
                f"encode {name}, short way {short}, four {four}",
                lambda n=name, s=short, f=four: encoded_shortly(n, s, f),
            )
    yield "quotients", divided


def same(got: Blocks, want: Blocks) -> None:
    equal(got.codes, want.codes, "codes")
    equal(got.scales, want.scales, "scales")
    if want.global_scale is not None:
        assert got.global_scale is not None
        equal(got.global_scale, want.global_scale, "global scale")


def shape_for(name: str, place: Place) -> tuple[int, int]:
    rows, columns = PRESETS[name].block
    if rows >= 128:
        return (390, 1300) if place.large else (130, 260)
    return (rows or 1) * (36 if place.large else 5), (columns or 80) * 12


def quantising(place: Place) -> Iterator[Check]:
    """Every preset, type of x and kernel, forwards and back."""

    def forth(name: str, dtype: torch.dtype, naive: bool) -> None:
        x = place.randn(*shape_for(name, place)).to(dtype)
        same(quantize(x, name, naive=naive), blocks.quantize(x, name))

    def back(name: str, dtype: torch.dtype, naive: bool) -> None:
        x = place.randn(*shape_for(name, place), seed=1)
        given = blocks.quantize(x, name)
        want = formats.round_to(blocks.dequantize(given), name_of(dtype)).to(dtype)
        equal(dequantize(given, dtype=dtype, naive=naive), want)

    every = DTYPES if place.large else {"bf16": torch.bfloat16}
    for name in PRESETS:
        for label, dtype in every.items():
            for naive in (False, True):
                tail = f"{name} {label}{' naive' if naive else ''}"
                yield (
                    f"quantize {tail}",
                    lambda a=name, b=dtype, c=naive: forth(a, b, c),
                )
                yield (
                    f"dequantize {tail}",
                    lambda a=name, b=dtype, c=naive: back(a, b, c),
                )


def edges(maximum: float, mantissa: int) -> torch.Tensor:
    """Every bf16 magnitude; fp32 ones next to where scale rules change their mind."""
    bits = torch.arange(2**15, dtype=torch.int16).view(torch.bfloat16).float()
    points = torch.tensor(
        [1.0, 2 - 2.0 ** -(mantissa + 1), maximum], dtype=torch.float64
    )
    exponents = torch.arange(-160, 128)
    near = (points[:, None] * 2.0 ** exponents.double()).flatten().float()
    infinity = torch.tensor(math.inf)
    near = torch.cat([near, near.nextafter(infinity), near.nextafter(-infinity)])
    every = torch.cat([bits, near])
    return every[every.isfinite() & (every >= 0)]


def scaling(place: Place) -> Iterator[Check]:
    """A block for every amax at which a scale rule may go wrong."""

    def run(name: str) -> None:
        format = PRESETS[name]
        element = formats.get(format.element)
        amax = edges(format.maximum or element.maximum, element.mantissa)
        columns = format.block[1] or 16
        x = torch.zeros(len(amax), columns)
        x[:, 1], x[:, 2], x[:, 3] = -amax, amax / 3, amax / 7
        x = x.to(place.device)
        same(quantize(x, name), blocks.quantize(x, name))

    for name in PRESETS:
        if PRESETS[name].block[0] == 1 and not PRESETS[name].global_scale:
            yield name, lambda a=name: run(a)


def odd_blocks(place: Place) -> Iterator[Check]:
    """Shapes with leading axes, short blocks, odd addresses; non-finite values."""
    shapes = [
        ("mxfp8_e4m3", (2, 3, 5, 64)), ("mxfp4", (96,)), ("nvfp4", (3, 4, 48)),
        ("nvfp4:te_2d", (2, 32, 48)), ("fp8_block_128", (2, 130, 200)),
        ("fp8_group_128", (3, 131)), ("mxfp4:deepgemm", (5, 47)),
        ("fp8_tensor", (3, 70, 100)), ("fp8_tensor", (2, 7, 1001)),
        ("fp8_token", (3, 1000)), ("int8_token", (2, 5, 33)), ("mxfp4", (0, 64)),
        ("mxfp8_e4m3", (70000, 32)), ("fp8_token", (70001, 8)),
    ]  # fmt: skip

    def whole(name: str, shape: tuple[int, ...]) -> None:
        x = place.randn(*shape, seed=2).to(torch.bfloat16)
        same(quantize(x, name), blocks.quantize(x, name))

    def shifted(name: str, shape: tuple[int, ...]) -> None:
        size, bf16 = math.prod(shape) + 1, torch.bfloat16
        room = torch.empty(size, dtype=bf16, device=place.device)
        x = room[1:].view(shape).copy_(place.randn(*shape, seed=3))
        same(quantize(x, name), blocks.quantize(x, name))

    def broken(name: str, policy: str, naive: bool) -> None:
        format = replace(PRESETS[name], nonfinite=policy)  # type: ignore[arg-type]
        x = place.randn(4, 5, 1024, seed=4)
        x[0, 1, 3], x[1, 2, 70], x[2, 3, 500] = math.nan, math.inf, -math.inf
        x[3, 4, 10], x[3, 4, 11] = math.nan, -math.inf
        same(quantize(x, format, naive=naive), blocks.quantize(x, format))

    for name, shape in shapes:
        if math.prod(shape) < 10**5 or place.large:
            yield f"{name} {shape}", lambda a=name, b=shape: whole(a, b)
            if math.prod(shape):
                yield f"{name} {shape} shifted", lambda a=name, b=shape: shifted(a, b)
    for name in ("mxfp4", "mxfp8_e5m2", "nvfp4", "fp8_tensor", "fp8_token"):
        for policy in ("propagate", "saturate"):
            for naive in (False, True):
                yield (
                    f"{name} {policy}{' naive' if naive else ''}",
                    lambda a=name, b=policy, c=naive: broken(a, b, c),
                )


def grouping(place: Place) -> Iterator[Check]:
    """Rows by expert: linear scales and the 128x4 layout."""
    tokens = 700 if place.large else 60

    def run(name: str, dtype: torch.dtype, naive: bool, layout: str) -> None:
        made = permutation.permute(place.ids(tokens, 3, 9), 9)
        columns = 512 if PRESETS[name].block[1] == 128 else 96
        x = place.randn(len(made.slots), columns).to(dtype)
        want = reference_grouped(x, made.offsets, name)
        offsets = made.offsets.int()
        got = grouped_quantize(x, offsets, name, layout=layout, naive=naive)  # type: ignore[arg-type]
        equal(got.codes, want.codes, "codes")
        if layout == "linear":
            equal(got.scales, want.scales, "scales")
            return
        stored = got.scales.flatten()
        regions = swizzle_grouped(want.scales, made.offsets)
        equal(stored[: len(regions)], regions, "regions")
        assert not bool(stored[len(regions) :].any()), "bytes past the last region"

    for name in ("mxfp8_e4m3:rceil", "mxfp4", "nvfp4", "fp8_group_128:ue8m0"):
        for dtype in (torch.bfloat16, torch.float32):
            for naive in (False, True):
                for layout in ("linear", "128x4"):
                    yield (
                        f"{name} {name_of(dtype)} {layout}{' naive' if naive else ''}",
                        lambda a=name, b=dtype, c=naive, d=layout: run(a, b, c, d),
                    )
