"""Slots sorted by expert, their inverse, padded blocks of them, and rows gathered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from oracle.spec import Layer
from refmoe.kernels.foresight import foreseen
from refmoe.kernels.launch import Kernel, aligned, blocks_for, check
from refmoe.kernels.launchers.formats import TYPES

_FILE = "permute.cu"
IDS = {torch.int32: "i32", torch.int64: "i64"}
#: Shared memory that a kernel may take without asking, in words.
_SHARED_WORDS = 48 * 1024 // 4
#: What rows that are gathered may consist of.
_MOVED = {**TYPES, torch.uint8: "u8", torch.int8: "u8"}
#: Fewest slots of a chunk, and most chunks.
_PER_CHUNK, _CHUNKS, _WARPS = 128, 512, 4


@dataclass(frozen=True, slots=True)
class Sorted:
    """Slots t * k + j by expert; inside an expert in their own order.

    Shapes:
        rows: i32[P], the slot of each row, `padding` where a row has none
        starts: i32[E + 1], where each expert's rows start; rows past starts[E] have no
        slot (P is an upper bound known without reading the device)
        inverse: i32[T, k], the row of each slot, -1 where it has none
    """

    rows: torch.Tensor
    starts: torch.Tensor
    inverse: torch.Tensor
    padding: int


def sort_slots(
    ids: torch.Tensor,
    experts: int,
    *,
    local: tuple[int, int] | None = None,
    block: int = 1,
    naive: bool = False,
) -> Sorted:
    """Sort the slots of ids by expert, stably; nothing is read back from the device.

    Shapes: ids: i32 or i64 [T, k]

    Ids outside `local` (start, stop), None for all `experts`, have no row: -1 and the
    experts of other ranks. With `block` every expert's rows start at a multiple of it;
    `padding` is then T * k, else -1.

    Raises TypeError for other ids, ValueError for a bad range and for more than 2^31
    rows.
    """
    check("permute", "ids", ids, tuple(IDS), (None, None))
    first, stop = (0, experts) if local is None else local
    if not 0 <= first <= stop <= experts:
        raise ValueError(
            f"permute: local=({first}, {stop}) is no range inside 0..{experts}"
        )
    if block < 1:
        raise ValueError(f"permute: block={block} must be at least 1")
    slots, here = ids.numel(), stop - first
    capacity = slots if block == 1 else min(slots, here) * (block - 1) + slots
    capacity = blocks_for(capacity, block) * block
    if capacity >= 2**31:
        raise ValueError(
            f"permute: {slots} slots in blocks of {block} exceed 2^31 rows; split the "
            "tokens"
        )
    padding = -1 if block == 1 else slots

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.int32, device=ids.device)

    made = Sorted(empty(capacity), empty(here + 1), empty(*ids.shape), padding)
    head = (ids, np.int32(slots), first, np.int32(here))
    name, device = IDS[ids.dtype], ids.device
    warps = min(_WARPS, (_SHARED_WORDS - 1 - here) // max(here, 1))
    if naive or warps < 1:
        made.rows.fill_(padding)
        made.inverse.fill_(-1)
        Kernel(_FILE, f"permute_naive<{name}>")(
            max(1, blocks_for(slots, 128)), 128, *head, np.int32(block), made.rows,
            made.starts, made.inverse, device=device,
        )  # fmt: skip
        return made
    per_chunk = max(_PER_CHUNK, blocks_for(blocks_for(slots, _CHUNKS), 32) * 32)
    chunks = blocks_for(slots, per_chunk)
    counts, totals = empty(here, chunks), empty(here)
    grid, threads = max(1, blocks_for(chunks, warps)), 32 * warps
    Kernel(_FILE, f"count_chunks<{name}>")(
        grid, threads, *head, np.int32(chunks), np.int32(per_chunk), counts,
        device=device, shared=4 * warps * here,
    )  # fmt: skip
    Kernel(_FILE, "scan_chunks")(
        blocks_for(here, 4), 128, counts, totals, np.int32(here), np.int32(chunks),
        device=device,
    )  # fmt: skip
    Kernel(_FILE, f"place_slots<{name}>")(
        grid, threads, *head, np.int32(block), np.int32(chunks), np.int32(per_chunk),
        counts, totals, made.rows, np.int32(capacity), np.int32(padding), made.starts,
        made.inverse, device=device, shared=4 * (1 + here + warps * here),
    )  # fmt: skip
    return made


@foreseen
def permute(
    ids: torch.Tensor, layer: Layer, *, local: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows i32[R], the slots that have an expert, and offsets i32[E + 1].

    Reads R back from the device; `sort_slots` does not. Identity experts have no row.
    """
    made = sort_slots(ids, layer.experts, local=local)
    return made.rows[: int(made.starts[-1])], made.starts


def align(
    ids: torch.Tensor, experts: int, block: int, *, local: tuple[int, int] | None = None
) -> tuple[Sorted, torch.Tensor]:
    """Slots in blocks of one expert each, and that expert, i32[P / block], or -1.

    The operation of vLLM's `moe_align_block_size`, without an atomic: the order inside
    an expert is that of the slots.
    """
    made = sort_slots(ids, experts, local=local, block=block)
    return made, owners_of(made.starts, len(made.rows) // block, block)


def owners_of(starts: torch.Tensor, count: int, block: int = 1) -> torch.Tensor:
    """The expert of each of `count` blocks of rows, i32[count]; -1 past the last."""
    owners = torch.empty(count, dtype=torch.int32, device=starts.device)
    Kernel(_FILE, "block_owners")(
        blocks_for(count, 128), 128, starts.int(), np.int32(len(starts) - 1),
        np.int32(block), np.int32(count), owners, device=starts.device,
    )  # fmt: skip
    return owners


def inverse_of(rows: torch.Tensor, tokens: int, choices: int) -> torch.Tensor:
    """The row of each slot, i32[T, k], -1 where it has none; rows: i32 or i64 [R]."""
    check("combine", "rows", rows, tuple(IDS), (None,))
    slots = tokens * choices
    inverse = torch.full((tokens, choices), -1, dtype=torch.int32, device=rows.device)
    Kernel(_FILE, f"invert_rows<{IDS[rows.dtype]}>")(
        blocks_for(len(rows), 256), 256, rows, np.int32(len(rows)), inverse,
        np.int32(slots), device=rows.device,
    )  # fmt: skip
    return inverse


def padded_starts(offsets: torch.Tensor, block: int) -> torch.Tensor:
    """Where each expert's region starts when all are padded to `block`, [E + 1]."""
    check("grouped_quantize", "offsets", offsets, tuple(IDS), (None,))
    starts = torch.empty_like(offsets)
    Kernel(_FILE, f"pad_regions<{IDS[offsets.dtype]}>")(
        1, 1024, offsets, np.int32(len(offsets) - 1), np.int32(block), starts,
        device=offsets.device,
    )  # fmt: skip
    return starts


def gather(x: torch.Tensor, rows: torch.Tensor, choices: int) -> torch.Tensor:
    """The token of each row, [P, H]; zeros in rows without a slot.

    Shapes: x: bf16, fp16, fp32 or bytes [T, H]; rows: i32[P], slots of T * `choices`
    """
    check("gather", "x", x, tuple(_MOVED), (None, None))
    check("gather", "rows", rows, (torch.int32,), (None,), x.device)
    tokens, columns = x.shape
    out = torch.empty((len(rows), columns), dtype=x.dtype, device=x.device)
    vector = 16 // x.element_size()
    if columns % vector or not aligned(16, x):
        vector = 1
    if out.numel():
        Kernel(_FILE, f"gather_rows<{_MOVED[x.dtype]}, {vector}, i64>")(
            (len(rows), blocks_for(columns, 128 * vector)), 128, x, rows,
            np.int32(tokens * choices), np.int32(choices), out, columns,
            device=x.device,
        )  # fmt: skip
    return out
