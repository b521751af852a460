"""The same layer under tensor and expert parallelism: the sum over shards is the whole.

A shard is a layer with its own params; running every shard and adding the partial
outputs, then adding what is replicated once, gives the unsharded result. Dispatch says
whether activations are quantised before or after the all-gather.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from oracle import bounds
from oracle.blocks import dequantize, quantize
from oracle.layouts.scale_tiles import swizzle_128x4, unswizzle_128x4
from oracle.moe import DEFAULT, trace
from oracle.numerics import Numerics
from oracle.params import Blocks, Params, Streamed, Weight
from oracle.spec import BlockFormat, Layer
from oracle.trace import Tap


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part: which ids are local, and whether it adds what is replicated."""

    layer: Layer
    params: Params
    local: tuple[int, int] | None = None
    replicated: bool = True


def expert_parallel(layer: Layer, params: Params, ranks: int) -> list[Shard]:
    """Contiguous runs of experts, as even as possible; rank 0 takes what is replicated.

    Raises ValueError unless 1 <= ranks <= experts.
    """
    if not 1 <= ranks <= layer.experts:
        raise ValueError(
            f"expert_parallel: ranks={ranks} must lie in 1..{layer.experts}: one "
            "expert or more each"
        )
    edges = [layer.experts * rank // ranks for rank in range(ranks + 1)]
    return [
        Shard(layer, _experts(params, start, stop), (start, stop), rank == 0)
        for rank, (start, stop) in enumerate(pairwise(edges))
    ]


def tensor_parallel(layer: Layer, params: Params, ranks: int) -> list[Shard]:
    """Equal runs of the intermediate: gate and up rows each, and the columns of down.

    Only rank 0 keeps the bias of down, which is added once.  The shared expert stays
    whole on rank 0.

    Raises ValueError unless I divides into `ranks`, each a whole number of blocks of a
    block-scaled weight: pad first (`oracle.layouts.padding`).
    """
    width, rest = divmod(layer.intermediate, ranks)
    if rest:
        raise ValueError(
            f"tensor_parallel: intermediate={layer.intermediate} does not divide into "
            f"ranks={ranks}; pad it to a multiple"
        )
    part = replace(layer, intermediate=width)
    shards = []
    for rank in range(ranks):
        start, stop = rank * width, (rank + 1) * width
        halves = [(start, stop)]
        if layer.activation.gated:
            halves.append((layer.intermediate + start, layer.intermediate + stop))
        bias, down_bias = params.gate_up_bias, params.down_bias
        cut = replace(
            params,
            gate_up=_cut(params.gate_up, 1, halves),
            down=_cut(params.down, 2, [(start, stop)]),
            gate_up_bias=None if bias is None
            else torch.cat([bias[:, low:high] for low, high in halves], dim=1),
            down_bias=down_bias if rank == 0 or down_bias is None
            else torch.zeros_like(down_bias),
        )  # fmt: skip
        shards.append(Shard(part, cut, None, rank == 0))
    return shards


def partial(
    shard: Shard,
    x: torch.Tensor,
    logits: torch.Tensor,
    numerics: Numerics = DEFAULT,
    *,
    partial_type: str = "none",
    token_ids: torch.Tensor | None = None,
) -> Tap:
    """What one rank hands to the all-reduce [T, H], rounded to `partial_type`.

    Rank 0's part holds the shared expert; none is rounded to the layer's dtype.
    """
    part = trace(
        shard.layer, shard.params, x, logits, numerics.but(output=partial_type),
        token_ids=token_ids, local=shard.local, replicated=shard.replicated,
    )  # fmt: skip
    return part["out"]


def reduced(parts: list[Tap], layer: Layer, numerics: Numerics = DEFAULT) -> Tap:
    """The all-reduce: partial outputs summed over ranks in any order, then rounded."""
    total = bounds.total(bounds.stack(parts), 1, numerics.combine, numerics)
    return bounds.rounded(total, numerics.output or layer.dtype, numerics)


def dispatched(
    x: list[torch.Tensor],
    format: BlockFormat,
    *,
    quantised: str = "before_gather",
    swizzled: bool = False,
) -> torch.Tensor:
    """x of all ranks as every rank sees it after an all-gather, dequantised f64[T, H].

    ``before_gather``: each rank quantises its own rows and codes and scales travel;
    ``after_gather``: rows travel, then the whole is quantised. Both give the same bytes
    wherever a scale belongs to rows of one rank; a per-tensor scale (NVFP4's global
    one, FP8 per tensor) differs unless it is calibrated.

    `swizzled` scale bytes travel in each rank's own 128x4 tiles, padded to 128 rows;
    whoever reads them must undo them rank by rank.

    Raises ValueError for another value of `quantised`.
    """
    if quantised == "after_gather":
        return dequantize(quantize(torch.cat(x), format))
    if quantised != "before_gather":
        raise ValueError(
            f"dispatched: quantised={quantised!r} is unknown; use 'before_gather' or "
            "'after_gather'"
        )
    return torch.cat([_received(quantize(part, format), swizzled) for part in x])


def _received(blocks: Blocks, swizzled: bool) -> torch.Tensor:
    if swizzled:
        tiles = swizzle_128x4(blocks.scales)
        scales = unswizzle_128x4(tiles, *blocks.scales.shape[-2:])
        blocks = replace(blocks, scales=scales)
    return dequantize(blocks)


def _experts(params: Params, start: int, stop: int) -> Params:
    def cut(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor[start:stop]

    return replace(
        params,
        gate_up=_run(params.gate_up, start, stop),
        down=_run(params.down, start, stop),
        gate_up_bias=cut(params.gate_up_bias),
        down_bias=cut(params.down_bias),
        alpha=cut(params.alpha),
        beta=cut(params.beta),
        limit=cut(params.limit),
    )


def _run(weight: Weight, start: int, stop: int) -> Weight:
    if isinstance(weight, Streamed):
        shape = torch.Size((stop - start, *weight.shape[1:]))
        load = weight.load
        return Streamed(lambda expert: load(start + expert), shape)
    return weight[start:stop]


def _cut(weight: Weight, axis: int, runs: list[tuple[int, int]]) -> Weight:
    """The runs of rows (axis 1) or columns (axis 2) of weights [E, N, K]."""
    if isinstance(weight, Streamed):
        load, shape = weight.load, list(weight.shape)
        shape[axis] = sum(stop - start for start, stop in runs)

        def one(expert: int) -> torch.Tensor | Blocks:
            part = load(expert)
            whole = _leading(part)
            cut = _cut(whole, axis, runs)
            assert not isinstance(cut, Streamed)
            return cut[0]

        return Streamed(one, torch.Size(shape))
    if isinstance(weight, torch.Tensor):
        parts = [weight.narrow(axis, start, stop - start) for start, stop in runs]
        return torch.cat(parts, dim=axis)
    block = weight.format.block[axis - 1]
    if block == 0 or any(edge % block for run in runs for edge in run):
        size = "the whole axis" if block == 0 else block
        raise ValueError(
            f"tensor_parallel: runs {runs} cut through blocks of {size} of format "
            f"{weight.format.name!r}; pad the intermediate to a multiple first"
        )
    codes = [weight.codes.narrow(axis, a, b - a) for a, b in runs]
    scales = [weight.scales.narrow(axis, a // block, (b - a) // block) for a, b in runs]
    return Blocks(
        torch.cat(codes, axis), torch.cat(scales, axis), weight.format,
        weight.global_scale,
    )  # fmt: skip


def _leading(part: torch.Tensor | Blocks) -> torch.Tensor | Blocks:
    if isinstance(part, torch.Tensor):
        return part[None]
    scale = part.global_scale
    return Blocks(part.codes[None], part.scales[None], part.format,
                  None if scale is None else scale.reshape(1))  # fmt: skip
