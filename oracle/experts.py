"""Grouped GEMM and combine: what happens to permuted rows, one expert at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch

from oracle import bounds
from oracle.numerics import Numerics
from oracle.operands import exact_blocks, scale_runs
from oracle.params import Blocks, Weight
from oracle.permutation import Permutation
from oracle.spec import BlockFormat
from oracle.trace import Tap


def weight_tap(
    weight: torch.Tensor | Blocks,
    numerics: Numerics,
    columns: torch.Tensor | None = None,
) -> Tap:
    """A weight [N, K] as the matrix unit sees it, or only the rows `columns` of its N.

    Exact, but for dequantised blocks where numerics.dequantized rounds them.
    """
    if isinstance(weight, Blocks):
        tap = exact_blocks(weight, numerics)
        tap = tap if columns is None else tap.map(lambda tensor: tensor[columns])
        return bounds.rounded(tap, numerics.dequantized, numerics)
    return bounds.exactly(weight if columns is None else weight[columns])


def grouped_gemm(
    x: Tap,
    weight: Weight,
    offsets: torch.Tensor,
    numerics: Numerics,
    *,
    bias: torch.Tensor | None = None,
    point: str = "none",
    columns: torch.Tensor | None = None,
    x_format: str | BlockFormat = "none",
) -> Tap:
    """y[r] = x[r] weight[e]^T (+ bias[e]) for the rows r of each expert e.

    Shapes: x [R, K]; weight [E, N, K]; offsets i64[E + 1]; bias [E, N]; `columns`
    i64[C] picks some of the N; the result [R, N] or [R, C]. Only one expert is
    dequantised at a time, so weights of any number of experts stream through.
    `x_format` is the block format that x was quantised to, if it was.

    `point` is the type of the result ("none": the accumulator's), after the bias. Rows
    past offsets[E] are zero.

    Raises ValueError where the shapes do not fit or the offsets decrease.
    """
    rows, depth = x.value.shape
    experts, width, weight_depth = weight.shape
    _check_offsets(offsets, experts, rows)
    if depth != weight_depth:
        raise ValueError(
            f"grouped_gemm: x has K={depth} columns, the weights K={weight_depth}"
        )
    out = _Rows(rows, width if columns is None else len(columns), x.value.device)
    edges = offsets.tolist()
    for expert, (start, stop) in enumerate(pairwise(edges)):
        if start == stop:
            continue
        stored = weight[expert]
        part = weight_tap(stored, numerics, columns)
        form = stored.format if isinstance(stored, Blocks) else "none"
        runs = scale_runs(depth, numerics, x_format, form)
        row = None if bias is None else bias[expert]
        if row is not None and columns is not None:
            row = row[columns]
        y = bounds.matmul(_slice(x, start, stop), part, numerics, bias=row, blocks=runs)
        out.put(start, stop, bounds.rounded(y, point, numerics))
    return out.tap()


def combine(
    down: Tap, permutation: Permutation, weights: Tap | None, numerics: Numerics
) -> Tap:
    """routed[t] = sum over the choices j of weights[t, j] down[row of (t, j)].

    Shapes: down [R, H]; weights [T, k] or None for 1; the result [T, H].

    Slots without a row contribute exactly nothing, whatever their weight (a NaN
    included); duplicates add up; a token with no row at all gets zeros.
    """
    tokens, choices = permutation.inverse.shape
    empty = permutation.inverse < 0
    index = permutation.inverse.clamp_min(0).reshape(-1)
    if len(permutation.slots) == 0:
        shape = (tokens, down.value.shape[1])
        return bounds.exactly(
            torch.zeros(shape, dtype=torch.float64, device=empty.device)
        )
    rows = down.map(lambda tensor: tensor[index])
    if weights is not None:
        column = weights.map(lambda tensor: tensor.reshape(-1, 1))
        # A product on its way to a 16-bit type may be rounded to fp32 first.
        step = "fp32" if numerics.weighted in ("bf16", "fp16") else "none"
        rows = bounds.multiply(rows, column, step, numerics)
        rows = bounds.rounded(rows, numerics.weighted, numerics)
    gone = empty.reshape(-1, 1)
    rows = rows.map(lambda tensor: tensor.masked_fill(gone, 0.0))
    if numerics.combine_order == "expert":
        order = torch.argsort(permutation.inverse, dim=1, stable=True)
        order = order + torch.arange(tokens, device=order.device)[:, None] * choices
        rows = rows.map(lambda tensor: tensor[order.reshape(-1)])
    rows = rows.map(lambda tensor: tensor.reshape(tokens, choices, -1))
    known: Literal["any", "slot"] = "any"
    if numerics.combine_order != "any":
        known = "slot"
    return bounds.total(rows, 1, numerics.combine, numerics, order=known)


def weighted_rows(x: Tap, weights: Tap, numerics: Numerics) -> Tap:
    """A row w[t, j] x[t] for every slot.

    Shapes: x [T, H]; weights [T, k]; the result [T * k, H]
    """
    choices = weights.value.shape[1]
    rows = x.map(lambda tensor: tensor.repeat_interleave(choices, dim=0))
    column = weights.map(lambda tensor: tensor.reshape(-1, 1))
    rows = bounds.multiply(rows, column, "none", numerics)
    return bounds.rounded(rows, numerics.weighted, numerics)


def with_identity(
    down: Tap, permutation: Permutation, x: Tap, ids: torch.Tensor, experts: int
) -> tuple[Tap, Permutation]:
    """Append x as the rows of identity experts: those with ids >= `experts`.

    Shapes: down [R, H]; x [T, H], one row for each token, or [T * k, H], one for each
    slot (already weighted, where combine does not weight)

    Combine then weights and adds them like any other row (LongCat's zero experts).
    """
    row = torch.arange(len(x.value), device=ids.device)
    slots = torch.cat([permutation.slots, row])
    each = 1 if len(row) == len(ids) else ids.shape[1]
    row = row.reshape(len(ids), each) + len(permutation.slots)
    inverse = torch.where(ids >= experts, row, permutation.inverse)
    moved = Permutation(slots, permutation.experts, permutation.offsets, inverse)
    return bounds.concatenate(down, x), moved


def _check_offsets(offsets: torch.Tensor, experts: int, rows: int) -> None:
    if tuple(offsets.shape) != (experts + 1,):
        raise ValueError(
            f"grouped_gemm: offsets have shape {tuple(offsets.shape)}; {experts} "
            f"experts need {experts + 1}"
        )
    if bool((offsets.diff() < 0).any()) or int(offsets[0]) != 0:
        raise ValueError("grouped_gemm: offsets must start at 0 and never decrease")
    if int(offsets[-1]) > rows:
        raise ValueError(
            f"grouped_gemm: the last offset {int(offsets[-1])} exceeds the {rows} rows"
        )


def _slice(x: Tap, start: int, stop: int) -> Tap:
    return x.map(lambda tensor: tensor[start:stop])


class _Rows:
    """Collects row ranges of a tap; ranges never written stay zero and exact."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.value = torch.zeros(rows, width, dtype=torch.float64, device=device)
        self.worst = torch.zeros_like(self.value)
        self.likely: torch.Tensor | None = torch.zeros_like(self.value)
        self.probability = 0.0

    def put(self, start: int, stop: int, part: Tap) -> None:
        self.value[start:stop] = part.value
        if part.worst is not None:
            self.worst[start:stop] = part.worst
            if part.likely is None:
                self.likely = None
            elif self.likely is not None:
                self.likely[start:stop] = part.likely
        self.probability = min(1.0, self.probability + part.probability)

    def tap(self) -> Tap:
        return Tap(self.value, self.worst, self.likely, self.probability)
