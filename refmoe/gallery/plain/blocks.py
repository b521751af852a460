"""Block formats in plain torch: blocks are axes of a view."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch.nn.functional import pad

from oracle.params import Blocks
from oracle.spec import BlockFormat
from refmoe.gallery.plain import elements, scales
from refmoe.gallery.plain.arithmetic import Arithmetic, Tensor

_NAN = {"e8m0": 255, "e4m3": 127}


class Tiles:
    """x [..., N, K] cut into blocks, [..., n, rows, m, columns], zeros filled in."""

    def __init__(self, x: Tensor, form: BlockFormat) -> None:
        self.shape = x.shape
        rows = form.block[0] or x.shape[-2] or 1
        columns = form.block[1] or x.shape[-1] or 1
        down, across = -(-x.shape[-2] // rows), -(-x.shape[-1] // columns)
        missing = (across * columns - x.shape[-1], down * rows - x.shape[-2])
        if any(missing) and not form.ragged:
            raise ValueError(
                f"{tuple(x.shape)} does not divide into blocks of {rows} x {columns}"
            )
        x = pad(x, (0, missing[0], 0, missing[1]))
        self.values = x.reshape(*x.shape[:-2], down, rows, across, columns)

    def join(self, tiles: Tensor) -> Tensor:
        """Tiles as a tensor of the shape that was cut."""
        *lead, down, rows, across, columns = tiles.shape
        x = tiles.reshape(*lead, down * rows, across * columns)
        return x[..., : self.shape[-2], : self.shape[-1]].contiguous()


class Quantizer(Arithmetic):
    """Values to codes and scales, and back; every step a method."""

    encode = staticmethod(elements.encode)
    power = staticmethod(scales.power)

    def peak(self, tiles: Tensor) -> Tensor:
        """The largest magnitude of each block."""
        if tiles.numel():
            return tiles.abs().amax((-3, -1))
        return tiles.new_zeros((*tiles.shape[:-3], tiles.shape[-2]))

    def quantize(
        self, x: Tensor, format: BlockFormat, global_scale: Tensor | None = None
    ) -> Blocks:
        """Codes and scales of x [..., N, K].

        Raises NotImplementedError for numbers that are not finite, unless they are to
        make their block NaN.
        """
        tiles = Tiles(x if x.dtype == torch.float64 else x.float(), format)
        amax = self.peak(tiles.values)
        broken = ~amax.isfinite()
        if format.nonfinite != "propagate" and bool(broken.any()):
            raise NotImplementedError("quantize: x is not finite; clean it first")
        amax = amax.masked_fill(broken, 0.0)
        stored, operand, whole = self.scaling(amax, format, global_scale)
        stored = stored.masked_fill(broken, _NAN.get(format.scale, torch.nan))
        meets = operand[..., :, None, :, None]
        divided = scales.divides(format)
        scaled = tiles.values / meets if divided else tiles.values * meets
        if format.recipe == "torchao":  # zeros stay zeros under an infinite operand
            scaled = torch.where(tiles.values == 0, tiles.values, scaled)
        if not scales.is_power(format):
            scaled = scaled.float()
        codes = self.encode(scaled, format)
        codes = tiles.join(codes.masked_fill(broken[..., :, None, :, None], 0))
        if whole is not None:
            whole = whole.reshape(x.shape[:-2])
        return Blocks(codes, stored, format, whole)

    def scaling(
        self, amax: Tensor, format: BlockFormat, global_scale: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Stored scales [..., n, m], what x meets, and the scale of the tensor."""
        zero = amax == 0
        if format.amax_floor:
            amax = amax.clamp(min=float(torch.tensor(format.amax_floor)))
        whole: scales.Whole | None = None
        if format.scale == "e4m3":
            whole = (torch.ones(()), torch.ones(()))
            if global_scale is not None:
                whole = scales.given_scale(global_scale.float()[..., None, None])
            elif format.global_scale:
                whole = scales.whole_scale(_top(amax), format)
            stored = scales.nvfp4_scale(amax, whole, format)
        elif scales.is_power(format):
            exponent = self.power(amax, format)
            stored = (exponent + 127).to(torch.uint8)
            if format.scale != "e8m0":
                stored = torch.exp2(exponent.double()).to(scales.STORED[format.scale])
        else:
            stored = scales.ratio(amax, format)
        if format.zero_scale is not None:
            number = scales.stored_number(format.zero_scale, format)
            stored = torch.where(zero, number, stored)
        operand = scales.operand_of(stored, amax, whole, format)
        return stored, operand, whole[1] if format.global_scale and whole else None

    def dequantize(self, stored: Blocks) -> Tensor:
        """The values [..., N, K] in the type of the arithmetic."""
        return self.plain(self.decode(stored))

    def decode(self, stored: Blocks) -> Tensor:
        """Code times scale times global scale, exactly: f64[..., N, K]."""
        format = stored.format
        table = elements.values(format.element)
        tiles = Tiles(stored.codes, format)
        value = table[tiles.values.long() & (len(table) - 1)]
        scale = scales.scale_values(stored.scales, format)
        value = value * scale[..., :, None, :, None]
        if stored.global_scale is not None:
            value = value * stored.global_scale.double()[..., None, None, None, None]
        return tiles.join(value)

    def grouped_quantize(
        self, x: Tensor, offsets: Tensor, format: BlockFormat
    ) -> Blocks:
        """Codes and scales of permuted rows; no block reaches across two experts.

        Rows past the last offset get codes and scales of zero. An expert without rows
        has a scale where one is for all its rows: that of zeros.
        """
        if format.block[0] == 1 and not format.global_scale:
            return self.quantize(x, format)
        edges = pairwise(offsets.tolist())
        parts = []
        for start, stop in edges:
            if start == stop and format.block[0] == 0:
                part = self.quantize(x.new_zeros(1, x.shape[1]), format)
                parts.append(replace(part, codes=part.codes[:0]))
            else:
                parts.append(self.quantize(x[start:stop], format))
        wholes = [part.global_scale for part in parts if part.global_scale is not None]
        codes = torch.cat([part.codes for part in parts])
        scales = torch.cat([part.scales for part in parts])
        tail = len(x) - len(codes)
        codes = pad(codes, (0, 0, 0, tail))
        if format.block[0] == 1:
            scales = pad(scales, (0, 0, 0, tail))
        return Blocks(codes, scales, format, torch.stack(wholes) if wholes else None)


def _top(amax: Tensor) -> Tensor:
    """The largest magnitude of the tensor."""
    if amax.numel():
        return amax.amax((-2, -1), keepdim=True)
    return amax.new_zeros((*amax.shape[:-2], 1, 1))
