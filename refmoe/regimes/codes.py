"""Every code and every scale of a block format, where nothing overflows."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.formats import decode, get
from oracle.params import Blocks, Weight
from oracle.spec import BlockFormat
from refmoe.case import format_of
from refmoe.generator import Stream, power_of_two
from refmoe.regimes import heavy, randn
from refmoe.regimes.regime import Source, plain

_SUITS = ("quantize", "grouped_quantize", "dequantize", "grouped_gemm")
_RUN = 32


def tokens(source: Source, name: str, rows: int, columns: int) -> torch.Tensor:
    """What the format's codes stand for, a power of two a run, every exponent in turn.

    Rows of a GEMM are ordinary, times 1 or 2^-8: one of them is in range of a scale.
    """
    stream, form = (
        source.stream(name),
        format_of(source.case.format or source.layer.dtype),
    )
    if isinstance(form, str):
        small = stream.substream("small").integers((rows, 1), 0, 1)
        return stream.normal((rows, columns)) * power_of_two(-8 * small)
    entry = get(form.element)
    values = decode(_codes(stream, (rows, columns), form, finite=True), form.element)
    last = get("bf16").maximum_exponent - entry.maximum_exponent
    # One scale for all blocks leaves those of E4M3 to tell the blocks apart.
    first = last - 17 if form.global_scale else get("bf16").minimum_exponent
    runs = (rows, -(-columns // _RUN))
    exponents = _in_turn(stream, runs, first, last)
    values *= power_of_two(exponents).repeat_interleave(_RUN, 1)[:, :columns]
    # Such as the lowest integer, -128 of int8, times the highest power.
    most = min(get(each).maximum for each in ("bf16", source.layer.dtype))
    return values.clamp(-most, most)


def weight(
    source: Source, name: str, shape: tuple[int, ...], form: str | BlockFormat
) -> Weight:
    """Every code and every scale, NaN among them; in a GEMM one scale a row.

    Only where a GEMM's result is itself the op's: others would see Inf and NaN alone.
    """
    if source.case.op not in _SUITS:
        return heavy.weight(source, name, shape, form)
    stream, alone = source.stream(name), source.case.op == "dequantize"
    if isinstance(form, str):
        entry = get(form)
        exponents = _in_turn(
            stream, (*shape[:-1], 1), entry.minimum_exponent, entry.maximum_exponent - 8
        )
        return plain(stream.normal(shape) * power_of_two(exponents), form)
    scales = randn.scale_shape(shape, form)
    codes = _codes(stream, shape, form, finite=not alone)
    if not alone:
        codes = _with_nan(stream, codes, form)
    stored = _scales(stream, scales if alone else (*scales[:-1], 1), form)
    overall = None
    if form.global_scale:
        exponents = stream.substream("global").integers(shape[:-2], -4, 4)
        overall = (1.25 * power_of_two(exponents)).float()
    return Blocks(codes, stored.expand(scales).contiguous(), form, overall)


def _codes(
    stream: Stream, shape: tuple[int, ...], form: BlockFormat, *, finite: bool
) -> torch.Tensor:
    """Codes of a block format, each as likely; 0 for those of NaN and Inf, if so."""
    entry = get(form.element)
    low = -(1 << (entry.bits - 1)) if entry.kind == "integer" else 0
    codes = stream.integers(shape, low, low + (1 << entry.bits) - 1).to(entry.storage)
    if not finite:
        return codes
    return codes.masked_fill(~decode(codes, form.element).isfinite(), 0)


def _with_nan(stream: Stream, codes: torch.Tensor, form: BlockFormat) -> torch.Tensor:
    """The codes, in every eighth row one that is NaN, where the format has such."""
    every = torch.arange(1 << get(form.element).bits).to(codes.dtype)
    nans = every[decode(every, form.element).isnan()].tolist()
    if not nans:
        return codes
    rows, columns = codes.shape[-2:]
    shape, stream = (*codes.shape[:-1], 1), stream.substream("nan")
    place = stream.integers(shape, 0, max(columns, 1) - 1) == torch.arange(columns)
    code = stream.substream("code").choose(shape, nans).to(codes.dtype)
    return torch.where(place & (torch.arange(rows)[:, None] % 8 == 5), code, codes)


def _scales(stream: Stream, shape: tuple[int, ...], form: BlockFormat) -> torch.Tensor:
    """Bytes in turn, no negative one of E4M3; for a float every exponent it has.

    None is infinite: zeros may meet it, or their sum, as an implementation likes.
    Half of those in fp32 tell values that are rounded once from those rounded twice.
    """
    stream = stream.substream("scales")
    if form.scale in ("e8m0", "e4m3"):
        last = 255 if form.scale == "e8m0" else 127
        return _in_turn(stream, shape, 0, last).to(torch.uint8)
    entry = get(form.scale)
    exponents = _in_turn(stream, shape, entry.minimum_exponent, entry.maximum_exponent)
    significands = 1.0 + stream.dyadic(shape).abs()
    if form.scale == "fp32":
        third = stream.substream("third").integers(shape, 0, 1) == 1
        significands = torch.where(third, _thirds(stream, shape), significands)
    scales = power_of_two(exponents) * significands
    return plain(scales.clamp(max=entry.maximum), form.scale)


def _thirds(stream: Stream, shape: tuple[int, ...]) -> torch.Tensor:
    """A third, times four, of a middle between two numbers of bf16 or of fp16.

    What is three of it lies beside that middle, and in fp32 is on it.
    """
    stream = stream.substream("middles")
    bits = stream.substream("bits").choose(shape, (8, 11)).long()
    steps = stream.integers(shape, 0, (1 << 10) - 1) >> (11 - bits)
    return (1.0 + (2 * steps + 1) * power_of_two(-bits)) * 4.0 / 3.0


def _in_turn(
    stream: Stream, shape: tuple[int, ...], low: int, high: int
) -> torch.Tensor:
    """Integers of low..high: all of them, shuffled, before one comes again."""
    order = stream.substream("order").permutations(1, high - low + 1)[0]
    count = torch.Size(shape).numel()
    return low + order[torch.arange(count) % len(order)].reshape(shape)


REGIME = replace(
    randn.REGIME,
    name="codes",
    about="every code and every scale byte, the first, the last and NaN among them",
    bug="bytes decoded wrongly: 0 as zero, NaN as a number, one scale for all experts",
    tokens=tokens,
    weight=weight,
    suits=_SUITS,
)
