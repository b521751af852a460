"""SGLang's grouped MXFP8, and the port ``refmoe.dropin:sglang`` of it.

The port computes where each expert's region of scales starts as SGLang does, allots
exactly that many rows, and reads and writes the 128x4 tiles by the oracle's layouts.
Its `experts` are made of the two calls: rows quantised, multiplied, activated, again,
and summed. Its `grouped_gemm` quantises x first, so it takes values that MXFP8 holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle.blocks import dequantize
from oracle.layouts.scale_tiles import (
    blockscale_offsets,
    swizzle_128x4,
    unswizzle_grouped,
)
from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from refmoe.case import Case
from refmoe.dropin.layers import beyond_the_experts
from refmoe.dropin.sglang.grouped import (
    FORMAT,
    es_sm100_mxfp8_blockscaled_grouped_quant,
    es_sm100_mxfp8_blockscaled_moe_grouped_gemm,
)
from refmoe.kernels.launchers.activate import activate
from refmoe.kernels.launchers.combine import combine
from refmoe.kernels.launchers.permute import gather, owners_of, permute
from refmoe.kernels.port import numerics
from refmoe.supports import Supports

__all__ = [
    "batch_invariant", "declares", "deterministic", "device",
    "es_sm100_mxfp8_blockscaled_grouped_quant",
    "es_sm100_mxfp8_blockscaled_moe_grouped_gemm", "experts", "grouped_gemm",
    "grouped_quantize", "name", "numerics", "prepare", "supports",
]  # fmt: skip

name, device = "refmoe.dropin:sglang", "cuda"
deterministic = batch_invariant = True
Stored = tuple[torch.Tensor, torch.Tensor]


def declares(layer: Layer) -> tuple[Layer, Numerics]:
    """The layer as it is; both GEMMs write the layer's type."""
    own = layer.dtype
    return layer, numerics.but(gate_up=own, intermediate=own, down=own)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows quantised by expert, and where each expert's lie, as the calls have it."""

    codes: torch.Tensor
    tiles: torch.Tensor
    counts: torch.Tensor
    starts: torch.Tensor
    regions: torch.Tensor


def _quantised(x: torch.Tensor, offsets: torch.Tensor) -> _Rows:
    regions = blockscale_offsets(offsets.long())
    columns = -(-x.shape[1] // 128) * 4
    rows = _Rows(
        torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device),
        torch.empty((int(regions[-1]), columns), dtype=torch.uint8, device=x.device),
        offsets.diff().int(), offsets[:-1].int(), regions[:-1].int(),
    )  # fmt: skip
    es_sm100_mxfp8_blockscaled_grouped_quant(
        x, rows.counts, rows.starts, rows.regions, rows.codes, rows.tiles
    )
    return rows


def _stored(weight: object) -> Stored:
    """Codes of a weight, and its scales in tiles of their own for each expert."""
    assert isinstance(weight, Blocks)
    tiles = swizzle_128x4(weight.scales)
    columns = -(-weight.shape[-1] // 128) * 4
    return (
        weight.codes.view(torch.float8_e4m3fn),
        tiles.reshape(len(tiles), -1, columns),
    )


def _multiplied(rows: _Rows, weight: Stored, dtype: torch.dtype) -> torch.Tensor:
    codes, tiles = weight
    return es_sm100_mxfp8_blockscaled_moe_grouped_gemm(
        codes, rows.codes, tiles, rows.tiles, rows.starts, rows.regions, rows.counts,
        rows.codes.new_empty(0), dtype,
    )  # fmt: skip


def grouped_quantize(
    x: torch.Tensor, offsets: torch.Tensor, format: BlockFormat
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op `grouped_quantize`."""
    rows = _quantised(x, offsets)
    scales = x.new_zeros((len(x), x.shape[1] // 32), dtype=torch.uint8)
    known = unswizzle_grouped(rows.tiles.flatten(), offsets.long(), scales.shape[1])
    scales[: len(known)] = known
    return rows.codes.view(torch.uint8), scales


def grouped_gemm(
    x: torch.Tensor, weights: Blocks, offsets: torch.Tensor
) -> torch.Tensor:
    """The op `grouped_gemm`; NotImplementedError for x that MXFP8 does not hold."""
    codes, scales = grouped_quantize(x, offsets, FORMAT)
    used = int(offsets[-1])
    held = dequantize(Blocks(codes, scales, FORMAT))[:used]
    if not torch.equal(held, x[:used].double()):
        raise NotImplementedError(
            "grouped_gemm: x is quantised first, and has values that mxfp8_e4m3 does "
            "not hold; give x such values, as the regime exact does"
        )
    return _multiplied(_quantised(x, offsets), _stored(weights), x.dtype)


def prepare(params: Params, layer: Layer) -> tuple[Stored, Stored]:
    """Both weights as the grouped GEMM takes them."""
    return _stored(params.gate_up), _stored(params.down)


def experts(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, params: Params,
    layer: Layer, *, prepared: tuple[Stored, Stored],
    local: tuple[int, int] | None = None,
) -> torch.Tensor:  # fmt: skip
    """The op `experts`."""
    slots, offsets = permute(ids, layer, local=local)
    rows = gather(x, slots, layer.top_k)
    gate_up = _multiplied(_quantised(rows, offsets), prepared[0], x.dtype)
    hidden = activate(gate_up, params, layer, owners_of(offsets, len(rows)))
    down = _multiplied(_quantised(hidden, offsets), prepared[1], x.dtype)
    return combine(down, slots, weights)


def _inexpressible(case: Case) -> str | None:
    """What the two calls cannot say of a case."""
    layer = case.layer
    if case.op == "grouped_gemm" and case.regime != "exact":
        return f"regime={case.regime}; x is quantised first, which keeps that of exact"
    if case.op != "experts":
        return None
    if layer.expert_bias:
        return "expert_bias; the grouped GEMM adds none"
    if layer.requantize != layer.activations:
        return "requantize; the intermediate is quantised as x is"
    return beyond_the_experts(case)


supports = Supports(
    dtypes=("bf16", "fp16"), formats=(FORMAT.name,),
    weights=("mxfp8_e4m3", FORMAT.name), activations=(FORMAT.name,),
    memory=("contiguous", "offset"), also=_inexpressible,
)  # fmt: skip
