"""Shards: their sum is the whole, under expert and tensor parallelism."""

import pytest
import torch

from oracle.blocks import preset, quantize
from oracle.layouts.scale_tiles import swizzle_128x4
from oracle.moe import trace
from oracle.numerics import PRESETS
from oracle.params import Params, Streamed
from oracle.shard import (
    dispatched,
    expert_parallel,
    partial,
    reduced,
    tensor_parallel,
)
from oracle.spec import Layer

REFERENCE = PRESETS["reference"]


def check_sum(sample, shards):
    """The reduced partial outputs equal the unsharded output within both bounds."""
    parts = [partial(s, sample.x, sample.logits, REFERENCE) for s in shards]
    total = reduced(parts, sample.layer, REFERENCE.but(output="none"))
    whole = trace(*sample.arguments, REFERENCE.but(output="none"))["out"]
    gap = (total.value - whole.value).abs()
    assert (gap <= total.worst + whole.worst).all()
    assert whole.value.abs().max() > 1e6 * (total.worst + whole.worst).max()


@pytest.mark.parametrize("ranks", [1, 2, 4, 6])
def test_expert_parallel_shards_sum_to_the_whole(layer, make_sample, ranks):
    sample = make_sample(layer)
    check_sum(sample, expert_parallel(layer, sample.params, ranks))


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_tensor_parallel_shards_sum_to_the_whole(layer, make_sample, ranks):
    sample = make_sample(layer)
    check_sum(sample, tensor_parallel(layer, sample.params, ranks))


def test_shards_cut_block_weights_and_streams_alike(make_sample):
    form = preset("mxfp4")
    layer = Layer(hidden=32, intermediate=64, experts=4, top_k=2, weights=form)
    sample = make_sample(layer)
    gate_up, down = (
        quantize(w, form) for w in (sample.params.gate_up, sample.params.down)
    )
    blocks = Params(gate_up, down)
    streams = Params(
        Streamed(gate_up.__getitem__, gate_up.shape),
        Streamed(down.__getitem__, down.shape),
    )
    for split in (expert_parallel, tensor_parallel):
        for a, b in zip(split(layer, blocks, 2), split(layer, streams, 2), strict=True):
            left = partial(a, sample.x, sample.logits)
            right = partial(b, sample.x, sample.logits)
            assert torch.equal(left.value, right.value)


def test_a_rank_without_tokens_adds_zeros(make_sample, layers):
    sample = make_sample(layers["plain"], tokens=1)
    ids = trace(*sample.arguments)["ids"].value
    idle = next(e for e in range(6) if e not in ids)
    shard = expert_parallel(sample.layer, sample.params, 6)[idle]
    assert partial(shard, sample.x, sample.logits).value.eq(0).all()


def test_splits_refuse_what_does_not_divide(make_sample, layers):
    sample = make_sample(layers["plain"])
    with pytest.raises(ValueError, match=r"ranks=7 must lie in 1\.\.6"):
        expert_parallel(sample.layer, sample.params, 7)
    with pytest.raises(ValueError, match="intermediate=8 does not divide into ranks=3"):
        tensor_parallel(sample.layer, sample.params, 3)
    form = preset("mxfp4")
    layer = Layer(hidden=32, intermediate=32, experts=2, top_k=1, weights=form)
    sample = make_sample(layer)
    blocks = Params(
        quantize(sample.params.gate_up, form), quantize(sample.params.down, form)
    )
    with pytest.raises(ValueError, match="cut through blocks of 32 of format 'mxfp4"):
        tensor_parallel(layer, blocks, 2)


def test_dispatch_order_matters_only_for_per_tensor_scales():
    generator = torch.Generator().manual_seed(5)
    ranks = [torch.randn(3, 64, generator=generator) * scale for scale in (1.0, 30.0)]
    for name in ("mxfp8_e4m3", "fp8_token"):
        early = dispatched(ranks, preset(name), quantised="before_gather")
        late = dispatched(ranks, preset(name), quantised="after_gather")
        assert torch.equal(early, late), name
    early = dispatched(ranks, preset("nvfp4"), quantised="before_gather")
    late = dispatched(ranks, preset("nvfp4"), quantised="after_gather")
    assert not torch.equal(early, late)
    with pytest.raises(ValueError, match="quantised='never' is unknown"):
        dispatched(ranks, preset("nvfp4"), quantised="never")


@pytest.mark.parametrize("rows", [3, 128, 130])
def test_swizzled_scales_are_undone_rank_by_rank(rows):
    generator = torch.Generator().manual_seed(6)
    form = preset("mxfp8_e4m3")
    ranks = [torch.randn(rows, 96, generator=generator) * 2.0**e for e in (-3, 4)]
    plain = dispatched(ranks, form)
    assert torch.equal(dispatched(ranks, form, swizzled=True), plain)
    # The ranks' tiles in a row are those of the whole only where none are padded.
    tiles = [swizzle_128x4(quantize(part, form).scales) for part in ranks]
    whole = swizzle_128x4(quantize(torch.cat(ranks), form).scales)
    assert torch.equal(torch.cat(tiles), whole) == (rows % 128 == 0)
