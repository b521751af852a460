"""Slots sorted by expert: what the grouped GEMMs run over, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Permutation:
    """Slots sorted by expert; inside an expert by slot (token, then choice).

    Shapes:
        slots:   i64[R], slot t * k + j of each row
        experts: i64[R], local expert of each row
        offsets: i64[E + 1], rows of expert e are offsets[e] to offsets[e + 1]
        inverse: i64[T, k], row of each slot, -1 where the slot has none
    """

    slots: torch.Tensor
    experts: torch.Tensor
    offsets: torch.Tensor
    inverse: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        """i64[R], token of each row."""
        return self.slots // max(self.inverse.shape[1], 1)


def permute(
    ids: torch.Tensor, experts: int, *, local: tuple[int, int] | None = None
) -> Permutation:
    """Sort the slots of ids i[T, k] by expert, stably; drop -1 and non-local ids.

    `local` (start, stop) is the range of ids that live here; experts are then numbered
    from start. Ids in range but outside `local` contribute nothing, duplicates keep a
    row each, experts without tokens have empty ranges, T = 0 gives R = 0.

    >>> p = permute(torch.tensor([[2, 0], [0, -1]]), 3)
    >>> p.slots.tolist(), p.offsets.tolist()
    ([1, 2, 0], [0, 2, 2, 3])

    Raises TypeError unless ids are integers, ValueError unless they are [T, k] and each
    is -1 or below `experts`.
    """
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"permute: ids are {ids.dtype}; give an integer type")
    if ids.ndim != 2:
        raise ValueError(f"permute: ids have shape {tuple(ids.shape)}; give [T, k]")
    start, stop = (0, experts) if local is None else local
    if not 0 <= start <= stop <= experts:
        raise ValueError(
            f"permute: local=({start}, {stop}) is no range inside 0..{experts}"
        )
    flat = ids.reshape(-1).to(torch.int64)
    bad = (flat < -1) | (flat >= experts)
    if bool(bad.any()):
        value = int(flat[bad][0])
        raise ValueError(
            f"permute: id {value} is outside -1..{experts - 1}; use -1 for a slot "
            "without an expert"
        )
    here = (flat >= start) & (flat < stop)
    slots = here.nonzero().reshape(-1)
    order = torch.sort(flat[slots], stable=True).indices
    slots = slots[order]
    local_ids = flat[slots] - start
    counts = torch.bincount(local_ids, minlength=stop - start)
    offsets = torch.zeros(stop - start + 1, dtype=torch.int64, device=ids.device)
    offsets[1:] = counts.cumsum(0)
    inverse = torch.full_like(flat, -1)
    inverse[slots] = torch.arange(len(slots), device=ids.device)
    return Permutation(slots, local_ids, offsets, inverse.reshape(ids.shape))


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows padded so that every block of rows belongs to one expert.

    Shapes: slots i64[P] with `padding` where a row is empty; experts i64[P / block].
    """

    slots: torch.Tensor
    experts: torch.Tensor
    padding: int


def align(permutation: Permutation, block: int) -> Aligned:
    """Pad each expert's rows to a multiple of `block` (vLLM `moe_align_block_size`).

    Empty rows hold the number of slots, T * k, one past the last valid slot.

    Raises ValueError unless block is positive.
    """
    if block < 1:
        raise ValueError(f"align: block={block} must be at least 1")
    padding = permutation.inverse.numel()
    offsets = permutation.offsets
    blocks = (offsets.diff() + block - 1) // block
    starts = torch.zeros_like(offsets)
    starts[1:] = blocks.cumsum(0) * block
    device = offsets.device
    slots = torch.full((int(starts[-1]),), padding, dtype=torch.int64, device=device)
    rows = torch.arange(len(permutation.slots), device=device)
    expert = permutation.experts
    slots[starts[expert] + rows - offsets[expert]] = permutation.slots
    owners = torch.arange(len(blocks), device=device).repeat_interleave(blocks)
    return Aligned(slots, owners, padding)
