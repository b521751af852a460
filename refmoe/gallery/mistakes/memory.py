"""Mistakes of memory: what nobody wrote, what lies behind the end, empty inputs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import pad

from oracle.params import Params
from oracle.spec import Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="memory")


@mistake("gemm", reference="flashinfer#3650", shows="rows no multiple of 32")
def nan_of_padding_spreads(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """From the second call on, padding rows hold NaN, and NaN times a mask is NaN."""
    y, edges = stage(x, weights, offsets), offsets.tolist()
    for start, stop in pairwise(edges):
        tail = (stop - start) % 32
        if tail and "dirty" in stage.memory:
            y[stop - tail : stop] = torch.nan
    stage.memory["dirty"] = True
    return y


@mistake("matmul", reference="sglang#9346, vllm#38148", shows="K no multiple of 64")
def loads_behind_the_last_column(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """A tile of K reads on into the next row, of x and of the weight."""
    depth = x.shape[1]
    return stage(_reading_on(x, depth), _reading_on(weight, depth))


def _reading_on(matrix: Tensor, depth: int) -> Tensor:
    flat = pad(matrix.reshape(-1), (0, -depth % 64))
    missing = depth + -depth % 64
    return flat.unfold(0, missing, depth) if len(flat) >= missing else matrix


@mistake("gemm", reference="grouped_gemm#36", shows="rows that belong to no expert")
def rows_of_no_expert_are_garbage(
    stage: Stage, x: Tensor, weights: Any, offsets: Tensor
) -> Tensor:
    """Rows behind the last offset are never written."""
    y = stage(x, weights, offsets)
    y[int(offsets[-1]) :] = torch.nan
    return y


@mistake("combined", reference="vllm#47323", shows="tokens without any expert")
def tokens_of_no_expert_are_garbage(
    stage: Stage, part: Tensor, rows: Tensor, shape: Any
) -> Tensor:
    """Only tokens that have a row are written."""
    total = stage(part, rows, shape)
    written = torch.zeros(shape[0], dtype=torch.bool)
    written[rows // shape[1]] = True
    return total.masked_fill(~written[:, None], torch.nan)


@mistake("routed", reference="sglang#22455, tokenspeed#415", shows="no tokens")
def no_early_return(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """The host divides by the number of rows."""
    assert 128 // ids.numel() >= 0
    return stage(x, ids, weights, params, layer, taps)


@mistake("combined", reference="flashinfer#3650", shows="a token whose rows are NaN")
def nan_row_spreads(stage: Stage, part: Tensor, rows: Tensor, shape: Any) -> Tensor:
    """Tokens are summed by a product with a matrix of zeros and ones."""
    total = stage(part, rows, shape)
    return total + 0.0 * total.sum(0)


@mistake("moe", reference="vllm#38148", shows="any case")
def last_row_unwritten(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    token_ids: Tensor | None = None,
    out: Tensor,
) -> None:
    """The last token of the output buffer is left as it was."""
    out[:-1] = stage.honest(x, logits, params, layer, token_ids=token_ids)[:-1]


@mistake("routed", reference="flashinfer#3547", shows="a rank with some of the experts")
def absent_experts_are_the_first(
    stage: Stage,
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    params: Params,
    layer: Layer,
    taps: dict[str, Tensor],
) -> Tensor:
    """On a rank, experts that live elsewhere are read at address 0 instead of not."""
    if params.gate_up.shape[0] < layer.experts:
        ids = ids.clamp(min=0)
    return stage(x, ids, weights, params, layer, taps)


@mistake("moe", shows="an output buffer with something behind its end")
def tail_stored_without_a_mask(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    token_ids: Tensor | None = None,
    out: Tensor,
) -> None:
    """The last tile is stored whole: a row behind the last token is written too."""
    out.copy_(stage.honest(x, logits, params, layer, token_ids=token_ids))
    storage = out.untyped_storage()
    whole = torch.empty(0, dtype=out.dtype).set_(
        storage, out.storage_offset(), (len(out) + 1, out.shape[1]), out.stride()
    )
    whole[-1] = 0.0


@mistake("activate", shows="rows that are wider than they look")
def padding_cleared_in_place(
    stage: Stage, gate_up: Tensor, params: Params, layer: Layer, expert: Tensor
) -> Tensor:
    """What lies between the rows of a view is zeroed, as if it were padding."""
    rows, wide = len(gate_up), gate_up.stride(0) if gate_up.ndim else 0
    if rows > 1 and gate_up.stride(1) == 1 and wide > gate_up.shape[1]:
        between = gate_up.as_strided((rows - 1, wide), (wide, 1))
        between[:, gate_up.shape[1] :] = 0.0
    return stage(gate_up, params, layer, expert)
