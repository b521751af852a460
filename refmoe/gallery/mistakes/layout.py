"""Mistakes of layout: what lies where in weights, scales and padded shards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

mistake = decorator("mistake", group="layout")


# ---- gate and up


@mistake("activation", reference="Megatron-LM#6045", shows="a gate")
def gate_and_up_swapped(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """[gate | up] is read as [up | gate]."""
    if kind.gated:
        gate_up = gate_up.roll(gate_up.shape[-1] // 2, -1)
    return stage(gate_up, params, kind, owner)


@mistake("activation", reference="Megatron-LM#6045", shows="a gate")
def gate_and_up_interleaved(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """Columns are taken for gate and up in turn."""
    if kind.gated:
        gate_up = torch.cat([gate_up[:, 0::2], gate_up[:, 1::2]], -1)
    return stage(gate_up, params, kind, owner)


@mistake("activation", reference="vllm#55649", shows="I no multiple of 64")
def split_at_the_padded_half(
    stage: Stage, gate_up: Tensor, params: Any, kind: Activation, owner: Any
) -> Tensor:
    """[gate | up | padding] is cut in the middle, and up rows become gates."""
    if not kind.gated:
        return stage(gate_up, params, kind, owner)
    width = gate_up.shape[-1] // 2
    padded = pad(gate_up, (0, -gate_up.shape[-1] % 128))
    gate, up = padded.chunk(2, -1)
    moved = torch.cat([gate[:, :width], up[:, :width]], -1)
    return stage(moved, params, kind, owner)


@mistake("second_gemm", reference="vllm#43865", shows="a shard that needs padding")
def rank_slices_at_the_padded_offset(
    stage: Stage,
    hidden: Tensor,
    offsets: Tensor,
    owner: Tensor,
    params: Params,
    layer: Layer,
) -> Tensor:
    """The second of two ranks starts at its padded shard, and columns get lost."""
    half = hidden.shape[-1] // 2
    hidden = hidden.clone()
    hidden[:, half : half + -half % 64] = 0.0
    return stage(hidden, offsets, owner, params, layer)


@mistake("weight", shows="H = I")
def square_weight_transposed(stage: Stage, weights: Any, expert: int) -> Tensor:
    """A square weight is taken the other way round."""
    part = stage(weights, expert)
    return part.T.contiguous() if part.shape[0] == part.shape[1] else part


@mistake(
    "shared", reference="Megatron-LM#6045", models=("deepseek-v3",),
    shows="a shared expert",
)  # fmt: skip
def shared_gate_and_up_swapped(
    stage: Stage, x: Tensor, params: Params, layer: Layer, gammas: Tensor
) -> Tensor:
    """The shared expert's gate and up change places, the others' do not."""
    both = params.shared_gate_up
    assert both is not None
    swapped: Tensor | Blocks
    if isinstance(both, Tensor):
        swapped = both.roll(len(both) // 2, 0)
    else:
        codes = both.codes.roll(len(both.codes) // 2, 0)
        scales = both.scales.roll(len(both.scales) // 2, 0)
        swapped = replace(both, codes=codes, scales=scales)
    return stage(x, replace(params, shared_gate_up=swapped), layer, gammas)


# ---- codes and scales


@mistake("decode", formats=("mxfp4",), shows="FP4 codes")
def nibbles_swapped(stage: Stage, stored: Blocks) -> Tensor:
    """The two codes of a byte are taken in the other order."""
    if stored.format.element != "e2m1":
        return stage(stored)
    shape = stored.codes.shape
    pairs = stored.codes.reshape(*shape[:-1], shape[-1] // 2, 2).flip(-1)
    return stage(replace(stored, codes=pairs.reshape(shape)))


@mistake("decode", reference="flashinfer#4087", shows="neighbouring scales that differ")
def scales_shifted_by_a_block(stage: Stage, stored: Blocks) -> Tensor:
    """Every block has the scale of the one before it."""
    return stage(replace(stored, scales=stored.scales.roll(1, -1)))


@mistake("decode", reference="flashinfer#4087", shows="scales of several rows")
def scales_of_the_next_row(stage: Stage, stored: Blocks) -> Tensor:
    """Rows of scales were permuted, but not those of codes."""
    return stage(replace(stored, scales=stored.scales.roll(1, -2)))


@mistake("decode", reference="flashinfer#4087", shows="scales of several rows")
def scales_not_interleaved(stage: Stage, stored: Blocks) -> Tensor:
    """Linear scales are read as if in tiles of 128 x 4."""
    scales = stored.scales
    rows, columns = scales.shape[-2:]
    place = torch.arange(rows * columns).reshape(rows, columns)
    place = pad(place, (0, -columns % 4, 0, -rows % 128), value=-1)
    tiles = place.reshape(place.shape[0] // 128, 4, 32, place.shape[1] // 4, 4)
    order = tiles.permute(0, 3, 2, 1, 4).reshape(-1)
    order = order[order >= 0]
    moved = scales.reshape(*scales.shape[:-2], -1)[..., order]
    return stage(replace(stored, scales=moved.reshape(scales.shape)))


@mistake("decode", reference="aiter#5233, aiter#5232", shows="K no multiple of 256")
def scales_by_the_padded_stride(stage: Stage, stored: Blocks) -> Tensor:
    """A row of scales is taken to be as long as K padded to 256 needs."""
    scales = stored.scales
    rows, columns = scales.shape[-2:]
    width = stored.format.block[1] or stored.codes.shape[-1]
    stride = -(-stored.codes.shape[-1] // 256) * 256 // width or columns
    place = torch.arange(rows)[:, None] * stride + torch.arange(columns)
    flat = scales.reshape(*scales.shape[:-2], rows * columns)
    moved = flat[..., place.clamp(max=rows * columns - 1)]
    return stage(replace(stored, scales=moved))


@mistake(
    "decode", reference="rocm-libraries#7920", formats=("fp8_block_128",),
    shows="several blocks of 128",
)  # fmt: skip
def scales_consumed_too_fast(stage: Stage, stored: Blocks) -> Tensor:
    """A loop over tiles of 32 moves on by a scale of 128 every time."""
    scales, block = stored.scales, stored.format.block[1]
    if block <= 32 or not scales.numel():
        return stage(stored)
    tiles = torch.arange(-(-stored.codes.shape[-1] // 32))
    taken = tiles.clamp(max=scales.shape[-1] - 1)
    small = replace(stored.format, block=(stored.format.block[0], 32))
    return stage(replace(stored, scales=scales[..., taken], format=small))


# ---- views


@mistake("activate", reference="kernels-community#76", shows="a view with strides")
def strides_ignored_by_the_activation(
    stage: Stage, gate_up: Tensor, params: Params, layer: Layer, expert: Tensor
) -> Tensor:
    """A view is read as if its rows lay one behind the other."""
    return stage(as_if_contiguous(gate_up), params, layer, expert)


@mistake("quantize", reference="kernels-community#106", shows="a view with strides")
def strides_ignored_by_the_quantiser(
    stage: Stage, x: Tensor, format: Any, global_scale: Tensor | None = None
) -> Blocks:
    """A view is read as if its rows lay one behind the other."""
    return stage.blocks(as_if_contiguous(x), format, global_scale)


def as_if_contiguous(x: Tensor) -> Tensor:
    """The elements that follow the first one in memory."""
    strides = torch.empty(x.shape, device="meta").stride()
    return x.as_strided(x.shape, strides)
