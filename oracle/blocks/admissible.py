"""Which codes and scales of an implementation some admissible value explains."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from oracle.blocks.grid import Grid
from oracle.blocks.scales import choose_scales, scale_value
from oracle.blocks.uncertain import Range, element_ends, range_of
from oracle.blocks.whole import spread_global, whole_scale
from oracle.formats import decode, get
from oracle.params import Blocks
from oracle.spec import BlockFormat
from oracle.trace import Tap


@dataclass(frozen=True, slots=True)
class Quantised:
    """Where bytes come from: a value known up to its radius, and the rule for it.

    Shapes: source f64[R, K]; global_scale f32[], where it is calibrated

    With `edges`, the rows between two of them are quantised on their own. Zeros of a
    `computed` source may have either sign: no order of sums decides it.
    """

    source: Tap
    format: BlockFormat
    global_scale: torch.Tensor | None = None
    slack: float = 0.0
    edges: tuple[int, ...] = ()
    computed: bool = False

    @property
    def exact(self) -> bool:
        """Whether only one result is admissible."""
        return self.source.exact and not self.slack

    @property
    def whole_known(self) -> bool:
        """Whether codes and block scales alone say what the bytes stand for."""
        return not self.format.global_scale or self.global_scale is not None

    def fits(self, blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks of the codes and scales that some admissible value explains."""
        if not self.edges:
            return self._fit(self.source, blocks)
        rows, first = self.format.block[0], 0
        codes, scales = [], []
        for expert, (start, stop) in enumerate(pairwise(self.edges)):
            count = -(-(stop - start) // rows) if rows else 1
            part = slice(first, first + count)
            first += count
            if start == stop:
                # The scale of no rows is that of zeros.
                scales.append(torch.ones_like(blocks.scales[part], dtype=torch.bool))
                continue
            whole = blocks.global_scale
            fit = self._fit(
                self.source.map(lambda t, s=start, e=stop: t[s:e]),  # type: ignore[misc]
                Blocks(
                    blocks.codes[start:stop], blocks.scales[part], self.format,
                    None if whole is None else whole[expert],
                ),
            )  # fmt: skip
            codes.append(fit[0])
            scales.append(fit[1])
        none = torch.zeros_like(blocks.codes[:0], dtype=torch.bool)
        return torch.cat([none, *codes]), torch.cat(scales)

    def _fit(self, source: Tap, blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scales = admissible_blocks(
            source, blocks, global_scale=self.global_scale, slack=self.slack
        )
        if self.computed and self.format.keep_negative_zero:
            radius = 0.0 if source.worst is None else source.worst
            zero = decode(blocks.codes, self.format.element) == 0
            codes = codes | (zero & (source.value.abs() <= radius))
        return codes, scales


def admissible_blocks(
    tap: Tap,
    blocks: Blocks,
    *,
    axis: int = -1,
    global_scale: torch.Tensor | float | None = None,
    slack: float = 0.0,
    sign_of_zero: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of the codes and scales that a value within the tap's `worst` may get.

    Shapes: tap f64[..., N, K]; blocks of the same shape -> bool of the codes' shape,
    bool of the scales' shape

    A scale is admissible where it lies between those of the least and the greatest
    amax; a code where its value lies between those of the element's ends *under the
    scale that the implementation stored*: one wrong scale does not make its codes wrong
    too. A global scale outside its own interval makes every scale inadmissible.
    ``sign_of_zero=False`` takes -0 for +0. `axis`, `global_scale` and `slack` are those
    of `quantize_tap`. No two implementations agree on the bytes of a block with a NaN
    or infinity: there, the element that has it must decode to NaN; all else is free.
    """
    format = blocks.format
    value = tap.value.to(torch.float64)
    if value.shape != blocks.codes.shape:
        raise ValueError(
            f"admissible_blocks: the tap has shape {tuple(value.shape)}, the codes "
            f"{tuple(blocks.codes.shape)}; compare the same tensor"
        )
    grid = Grid.of(value.shape, format, axis)
    radius = torch.zeros_like(value) if tap.worst is None else tap.worst
    span = range_of(value, radius, grid, format, global_scale, slack)
    stored = grid.gather(blocks.scales).reshape(-1, 1)
    scales = _scales_fit(stored, span, format)
    if blocks.global_scale is not None:
        scales &= _whole_fits(blocks.global_scale, span, grid, format)
    everything = torch.arange(len(stored), device=stored.device)
    low, high = element_ends(span, everything, [stored], format)
    got = decode(grid.blocks(grid.cut(blocks.codes)), format.element)
    codes = (low <= got) & (got <= high)
    if sign_of_zero and get(format.element).kind == "float":
        codes &= _zeros_fit(got, span, format)
    broken = ~grid.blocks(grid.cut(value)).isfinite()
    if bool(broken.any()):
        unknown = got.isnan() | scale_value(stored, format).isnan()
        anywhere = broken.any(1, keepdim=True)
        codes = torch.where(anywhere, ~broken | unknown, codes)
        scales |= anywhere
    across = grid.counts[1]
    return (
        grid.join(grid.tiles(codes)),
        grid.spread(scales.reshape(-1, across)),
    )


def _scales_fit(stored: torch.Tensor, span: Range, format: BlockFormat) -> torch.Tensor:
    """Whether scales [B, 1] lie in their run, or are those of a block of zeros."""
    fits = (span.least.stored <= stored) & (stored <= span.most.stored)
    zeros = torch.zeros_like(span.low[:, :1])
    zero = choose_scales(zeros, format, span.wholes[0]).stored
    return fits | (span.may_vanish & (stored == zero))


def _whole_fits(
    global_scale: torch.Tensor, span: Range, grid: Grid, format: BlockFormat
) -> torch.Tensor:
    """Whether the global scale over each block [B, 1] lies in its interval."""
    least, most = span.wholes
    assert least is not None
    assert most is not None
    across = grid.counts[1]
    got = spread_global(global_scale, grid).repeat_interleave(across, 0)
    tensors = grid.lead.numel()
    vanish = span.may_vanish.reshape(tensors, -1).all(1)
    zero = whole_scale(got.new_zeros(()), format).decode
    vanish = vanish.repeat_interleave(len(got) // tensors)[:, None]
    return ((least.decode <= got) & (got <= most.decode)) | (vanish & (got == zero))


def _zeros_fit(got: torch.Tensor, span: Range, format: BlockFormat) -> torch.Tensor:
    """Whether each zero has a sign that its element may have; True for all others."""
    if format.keep_negative_zero:
        minus = (span.low < 0) | ((span.low == 0) & span.low.signbit())
        plus = (span.high > 0) | ((span.high == 0) & ~span.high.signbit())
    else:
        minus = torch.zeros_like(got, dtype=torch.bool)
        plus = ~minus
    return (got != 0) | torch.where(got.signbit(), minus, plus)
