"""Permute, align, grouped GEMM and combine: structure is exact, errors are worded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import bounds
from oracle.experts import combine, grouped_gemm
from oracle.numerics import PRESETS
from oracle.permutation import align, permute
from oracle.trace import Tap

REFERENCE = PRESETS["reference"]


@st.composite
def routed_ids(draw):
    """ids[T, k] with -1 and duplicates, and the number of experts."""
    experts = draw(st.integers(1, 9), label="experts")
    tokens = draw(st.integers(0, 7), label="tokens")
    top_k = draw(st.integers(1, 4), label="top_k")
    values = st.integers(-1, experts - 1)
    rows = draw(
        st.lists(
            st.lists(values, min_size=top_k, max_size=top_k),
            min_size=tokens,
            max_size=tokens,
        ),
        label="ids",
    )
    return torch.tensor(rows, dtype=torch.int64).reshape(tokens, top_k), experts


@given(routed_ids())
def test_permute_sorts_every_valid_slot_once_and_stably(case):
    ids, experts = case
    found = permute(ids, experts)
    flat = ids.reshape(-1).tolist()
    want = [slot for e in range(experts) for slot, id_ in enumerate(flat) if id_ == e]
    assert found.slots.tolist() == want
    counts = [flat.count(e) for e in range(experts)]
    assert found.offsets.diff().tolist() == counts
    for row, slot in enumerate(found.slots.tolist()):
        assert found.inverse.reshape(-1)[slot] == row
    assert (found.inverse.reshape(-1) < 0).tolist() == [id_ < 0 for id_ in flat]


@given(routed_ids(), st.data())
def test_permute_of_ranks_partitions_the_whole(case, data):
    ids, experts = case
    cut = data.draw(st.integers(0, experts), label="cut")
    parts = [permute(ids, experts, local=run) for run in ((0, cut), (cut, experts))]
    whole = permute(ids, experts)
    assert torch.equal(torch.cat([p.slots for p in parts]), whole.slots)
    assert [len(p.offsets) for p in parts] == [cut + 1, experts - cut + 1]


@given(routed_ids(), st.integers(1, 5))
def test_align_gives_each_block_one_expert_and_keeps_rows(case, block):
    ids, experts = case
    found = permute(ids, experts)
    blocks = align(found, block)
    assert len(blocks.slots) == block * len(blocks.experts)
    valid = blocks.slots[blocks.slots != blocks.padding]
    assert torch.equal(valid, found.slots)
    flat = ids.reshape(-1)
    for index, expert in enumerate(blocks.experts.tolist()):
        held = blocks.slots[index * block : (index + 1) * block]
        held = held[held != blocks.padding]
        assert len(held) > 0
        assert (flat[held] == expert).all()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 3]], r"id 3 is outside -1\.\.2; use -1 for a slot without an expert"),
        ([[-2, 0]], r"id -2 is outside -1\.\.2"),
        ([0, 1], r"ids have shape \(2,\); give \[T, k\]"),
    ],
)
def test_permute_refuses_bad_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        permute(torch.tensor(ids), 3)


def test_permute_refuses_float_ids():
    with pytest.raises(TypeError, match=r"ids are torch\.float32; give an integer"):
        permute(torch.zeros(1, 1), 3)


def test_permute_refuses_a_local_range_outside():
    with pytest.raises(ValueError, match=r"local=\(2, 5\) is no range inside 0\.\.4"):
        permute(torch.zeros(1, 1, dtype=torch.int32), 4, local=(2, 5))


def test_align_refuses_an_empty_block():
    with pytest.raises(ValueError, match="block=0 must be at least 1"):
        align(permute(torch.zeros(1, 1, dtype=torch.int32), 1), 0)


def test_grouped_gemm_leaves_empty_experts_out_and_rows_past_the_end_zero():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(3, 2, 4, dtype=torch.float64, generator=generator)
    offsets = torch.tensor([0, 3, 3, 4])
    y = grouped_gemm(bounds.exactly(x), weight, offsets, REFERENCE).value
    want = torch.cat([x[:3] @ weight[0].T, x[3:4] @ weight[2].T, torch.zeros(1, 2)])
    assert torch.allclose(y, want, rtol=0, atol=4 * 4 * 2.0**-52)
    picked = torch.tensor([1])
    part = grouped_gemm(bounds.exactly(x), weight, offsets, REFERENCE, columns=picked)
    assert torch.equal(part.value, y[:, 1:])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2], "2 experts need 3"),
        ([0, 2, 1], "must start at 0 and never decrease"),
        ([1, 2, 2], "must start at 0 and never decrease"),
        ([0, 2, 9], "the last offset 9 exceeds the 4 rows"),
    ],
)
def test_grouped_gemm_refuses_bad_offsets(offsets, message):
    x, weight = bounds.exactly(torch.ones(4, 3).double()), torch.ones(2, 2, 3)
    with pytest.raises(ValueError, match=message):
        grouped_gemm(x, weight, torch.tensor(offsets), REFERENCE)


def test_grouped_gemm_refuses_another_depth():
    x, weight = bounds.exactly(torch.ones(4, 3).double()), torch.ones(2, 2, 5)
    with pytest.raises(ValueError, match="x has K=3 columns, the weights K=5"):
        grouped_gemm(x, weight, torch.tensor([0, 2, 4]), REFERENCE)


def test_combine_adds_duplicates_and_ignores_empty_slots_even_with_nan_weights():
    ids = torch.tensor([[1, 1], [-1, 0], [-1, -1]])
    found = permute(ids, 2)
    down = torch.tensor([[8.0], [2.0], [4.0]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0.5], [float("nan"), 2.0], [float("nan")] * 2])
    routed = combine(
        bounds.exactly(down), found, bounds.exactly(weights.double()), REFERENCE
    )
    assert routed.value.tolist() == [[2.0 + 2.0], [16.0], [0.0]]


def test_combine_in_expert_order_rounds_partials_in_that_order():
    ids = torch.tensor([[2, 0, 1]])
    found = permute(ids, 3)
    down = torch.tensor([[1.0], [2.0**-9], [-1.0]], dtype=torch.float64)
    weights = Tap(torch.ones(1, 3, dtype=torch.float64))
    slot = REFERENCE.but(weighted="bf16", combine="bf16", combine_order="slot")
    expert = slot.but(combine_order="expert")
    # by slot: (-1 + 1) + 2^-9; by expert: (1 + 2^-9 -> 1) - 1
    assert combine(bounds.exactly(down), found, weights, slot).value.item() == 2.0**-9
    assert combine(bounds.exactly(down), found, weights, expert).value.item() == 0.0
