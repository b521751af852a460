"""The fp32 scale of a whole tensor, above the scales of its blocks (NVFP4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle.blocks.grid import Grid
from oracle.formats import get, round_to
from oracle.spec import BlockFormat

FP32_MAX = get("fp32").maximum
_SCALE_MAX = get("e4m3").maximum
#: Recipes that store the decode scale and never form 2688 / A.
_DECODE_FIRST = ("torchao", "modelopt")


def fp32(x: torch.Tensor) -> torch.Tensor:
    """Float64 results of one fp32 operation, rounded to fp32.

    Rounding a float64 sum, product or quotient of fp32 numbers once more is innocuous:
    53 >= 2 * 24 + 2 bits. A quotient keeps 2^-49 of itself away from every tie of fp32,
    so that not even a last bit lost to dividing by way of a reciprocal would matter.
    """
    return round_to(x, "fp32")


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """The tensor's scale in both directions, f64[...] holding fp32 numbers."""

    encode: torch.Tensor
    decode: torch.Tensor

    def rows(self, chosen: torch.Tensor) -> Whole:
        """The scales of some rows."""
        return Whole(self.encode[chosen], self.decode[chosen])


def whole_scale(amax: torch.Tensor, format: BlockFormat) -> Whole:
    """The global scale for a tensor's amax; an all-zero tensor has 1.

    Under ``te`` that tensor has the largest encode scale instead. Past fp32, `encode`
    stays at the largest number and `decode` at the least.
    """
    largest = (format.maximum or get(format.element).maximum) * _SCALE_MAX
    if format.recipe in _DECODE_FIRST:
        decode = fp32(amax / largest).clamp(min=get("fp32").quantum)
        return given_scale(decode.masked_fill(amax == 0, 1.0))
    encode = fp32(largest / amax).clamp(max=FP32_MAX)
    if format.recipe != "te":
        encode = encode.masked_fill(amax == 0, 1.0)
    return Whole(encode, fp32(1 / encode))


def given_scale(decode: torch.Tensor) -> Whole:
    """A global scale that is given: `encode` is its fp32 reciprocal."""
    return Whole(fp32(1 / decode).clamp(max=FP32_MAX), decode)


def global_scales(
    amax: torch.Tensor,
    grid: Grid,
    format: BlockFormat,
    given: torch.Tensor | float | None,
) -> Whole | None:
    """The global scale of each [N, K], f64[L]; None where the format has none."""
    if not format.global_scale:
        if given is not None:
            raise ValueError(
                f"quantize: {format.name} has no global scale; leave global_scale out"
            )
        return None
    down, across = grid.counts
    if given is None:
        whole = amax.reshape(grid.lead.numel(), down * across)
        top = whole.amax(1) if down * across else whole.new_zeros(len(whole))
        return whole_scale(top.clamp(max=FP32_MAX), format)
    values = torch.as_tensor(given, dtype=torch.float64, device=amax.device)
    if not bool(((values > 0) & values.isfinite()).all()):
        raise ValueError(
            f"quantize: global_scale={given} must be positive and finite; it is what "
            "decoding multiplies by"
        )
    if values.numel() != 1 and values.shape != grid.lead:
        raise ValueError(
            f"quantize: global_scale has shape {tuple(values.shape)}; give one number "
            f"or one per leading index {tuple(grid.lead)}"
        )
    return given_scale(fp32(values).expand(grid.lead).flatten())


def per_group(whole: Whole | None, grid: Grid) -> Whole | None:
    """Global scales f64[L] as f64[G, 1]."""
    if whole is None:
        return None
    return Whole(spread_global(whole.encode, grid), spread_global(whole.decode, grid))


def spread_global(scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """One number, or one per leading index, as f64[G, 1]."""
    if scale.numel() not in (1, grid.lead.numel()):
        raise ValueError(
            f"blocks: global_scale has shape {tuple(scale.shape)}; give one number or "
            f"one per leading index {tuple(grid.lead)}"
        )
    scale = scale.to(torch.float64).reshape(-1, 1)
    return scale.expand(grid.lead.numel(), grid.counts[0]).reshape(-1, 1)


def kept_scale(whole: Whole | None, grid: Grid) -> torch.Tensor | None:
    """The global scale as the blocks keep it, f32 of the leading shape."""
    if whole is None:
        return None
    return whole.decode.to(torch.float32).reshape(grid.lead)
