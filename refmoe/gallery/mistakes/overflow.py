"""Mistakes of narrow integers and limits of launches."""

from __future__ import annotations

from typing import Any

import torch

from oracle.params import Blocks
from oracle.spec import Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="overflow")


def wrapped(values: Tensor, bits: int) -> Tensor:
    """Integers as a signed type of so many bits holds them."""
    half = 1 << (bits - 1)
    return (values + half) % (2 * half) - half


@mistake("weight", reference="vllm#34279, megablocks#185", shows="weights past 2^15")
def weight_offset_in_16_bits(stage: Stage, weights: Any, expert: int) -> Tensor:
    """The offset of an expert's weight wraps, and another's codes are read."""
    stored = weights.codes if isinstance(weights, Blocks) else weights
    size = stored[0].numel()
    start = int(wrapped(torch.tensor(expert * size), 16)) % stored.numel()
    flat = stored.reshape(-1).roll(-start)[:size].reshape(stored[:1].shape)
    if not isinstance(weights, Blocks):
        return stage(flat, 0)
    part = weights[slice(expert, expert + 1)]
    return stage(Blocks(flat, part.scales, part.format, part.global_scale), 0)


@mistake(
    "gemm", reference="Liger-Kernel#1248, DeepSpeed#8261", shows="results past 2^15"
)
def row_offset_in_16_bits(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """Rows whose offset wraps are written elsewhere."""
    y = stage(x, weights, offsets)
    start = torch.arange(len(y)) * y.shape[1]
    return y.masked_fill((start != wrapped(start, 16))[:, None], 0.0)


@mistake("permute", reference="Liger-Kernel#1296", shows="an expert with 128 rows")
def counts_in_8_bits(stage: Stage, ids: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Counts of rows wrap at 128."""
    rows, offsets = stage.pair(ids, layer)
    counts = wrapped(offsets.diff(), 8)
    return rows, torch.cat([offsets[:1], counts.cumsum(0)])


@mistake("permute", reference="flashinfer#2642", shows="more than 256 experts")
def ids_in_8_bits(stage: Stage, ids: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """Ids of experts are stored in a byte."""
    return stage.pair(ids.where(ids < 0, ids % 256), layer)


@mistake(
    "permute", reference="vllm-gguf-plugin#125, vllm-gguf-plugin#132",
    shows="65536 slots",
)  # fmt: skip
def launch_skipped_from_65536_on(
    stage: Stage, ids: Tensor, layer: Layer
) -> tuple[Tensor, Tensor]:
    """A grid past its limit is never launched, and nobody looks at the error."""
    rows, offsets = stage.pair(ids, layer)
    return (torch.zeros_like(rows) if ids.numel() > 65535 else rows), offsets
