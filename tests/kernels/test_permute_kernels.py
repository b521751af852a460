"""Sorting slots, gathering and combining rows, against the oracle and by law."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle import bounds, experts
from oracle import permutation as oracle
from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.kernels import emulator
from refmoe.kernels.launchers.combine import combine, combine_rows
from refmoe.kernels.launchers.permute import align, gather, permute, sort_slots

NUMERICS = Numerics(combine_order="slot")


def choices(tokens: int, k: int, count: int, seed: int = 0) -> torch.Tensor:
    """Ids with -1 among them, and some experts without any token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, max(count, 1), (tokens, k), generator=generator)
    return torch.where(ids % 5 == 3, -1, ids)


def layer(count: int) -> Layer:
    return Layer(hidden=8, intermediate=8, experts=count, top_k=1)


SIZES = [(0, 2, 4), (1, 1, 1), (3, 2, 5), (40, 4, 7), (129, 3, 40), (700, 2, 130)]


@pytest.mark.parametrize(("tokens", "k", "count"), SIZES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_permute_equals_oracle(
    tokens: int, k: int, count: int, dtype: torch.dtype, any_order: None
) -> None:
    ids = choices(tokens, k, count).to(dtype)
    want = oracle.permute(ids, count)
    rows, offsets = permute(ids, layer(count))
    assert torch.equal(rows.long(), want.slots)
    assert torch.equal(offsets.long(), want.offsets)
    made = sort_slots(ids, count)
    assert torch.equal(made.inverse.long(), want.inverse)
    assert bool((made.rows[len(rows) :] == -1).all())


@pytest.mark.parametrize("local", [(0, 0), (0, 3), (2, 7), (5, 9), (9, 9)])
@pytest.mark.parametrize("naive", [False, True])
def test_permute_drops_what_lives_elsewhere(
    local: tuple[int, int], naive: bool, emulated: None
) -> None:
    ids = choices(50, 3, 9)
    want = oracle.permute(ids, 9, local=local)
    made = sort_slots(ids, 9, local=local, naive=naive)
    count = len(want.slots)
    assert torch.equal(made.rows[:count].long(), want.slots)
    assert torch.equal(made.starts.long(), want.offsets)
    assert torch.equal(made.inverse.long(), want.inverse)


@pytest.mark.parametrize("block", [1, 2, 16, 64])
@pytest.mark.parametrize(("tokens", "k", "count"), SIZES[1:])
def test_align_equals_oracle(
    tokens: int, k: int, count: int, block: int, emulated: None
) -> None:
    ids = choices(tokens, k, count, seed=2)
    want = oracle.align(oracle.permute(ids, count), block)
    made, owners = align(ids, count, block)
    end = int(made.starts[-1])
    assert end == len(want.slots)
    assert torch.equal(made.rows[:end].long(), want.slots)
    assert bool((made.rows[end:] == made.padding).all())
    assert torch.equal(owners[: end // block].long(), want.experts)
    assert bool((owners[end // block :] == -1).all())
    naive = sort_slots(ids, count, block=block, naive=True)
    for field in ("rows", "starts", "inverse"):
        assert torch.equal(getattr(naive, field), getattr(made, field)), field


@given(st.data())
def test_permute_places_every_slot_once(
    host_compiler: str, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 300), "experts")
    ids = data.draw(
        st.lists(st.integers(-1, count - 1), min_size=1, max_size=400), "ids"
    )
    given_ids = torch.tensor(ids)[:, None]
    with emulator.emulated(seed=data.draw(st.integers(0, 9), "order")):
        rows, offsets = permute(given_ids, layer(count))
    owner = torch.repeat_interleave(torch.arange(count), offsets.diff())
    assert torch.equal(given_ids[rows.long(), 0], owner)
    assert rows.tolist() == sorted(
        (s for s, e in enumerate(ids) if e >= 0), key=lambda s: (ids[s], s)
    )


@pytest.mark.parametrize("count", [4000, 12000, 13000])
def test_permute_takes_many_experts(count: int, emulated: None) -> None:
    ids = torch.tensor([[count - 1, 0], [count // 2, count - 1]])
    made = sort_slots(ids, count)
    assert made.rows.tolist() == [1, 2, 0, 3]
    assert made.starts[-2:].tolist() == [2, 4]


@pytest.mark.parametrize("columns", [1, 24, 1000, 2056])
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float32, torch.uint8, torch.int8], ids=str
)
def test_gather_copies_the_token_of_each_row(
    columns: int, dtype: torch.dtype, emulated: None
) -> None:
    ids = choices(9, 2, 5)
    x = (30 * torch.randn(9, columns)).to(dtype)
    made = sort_slots(ids, 5, local=(1, 4))
    count = int(made.starts[-1])
    out = gather(x, made.rows, 2)
    assert torch.equal(out[:count], x[made.rows[:count].long() // 2])
    assert count < len(out)
    assert not out[count:].any()


def combined(dtype: torch.dtype, columns: int = 136) -> dict[str, torch.Tensor]:
    ids = choices(21, 3, 6, seed=3)
    want = oracle.permute(ids, 6)
    generator = torch.Generator().manual_seed(4)
    down = torch.randn(len(want.slots), columns, generator=generator).to(dtype)
    weights = torch.rand(21, 3, generator=generator)
    weights[ids < 0] = math.nan
    return {"ids": ids, "down": down, "weights": weights}


def expected(
    ids: torch.Tensor, down: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """The oracle's sum, which under declared fp32 and slot order is one number."""
    tap = experts.combine(
        bounds.exactly(down.double()),
        oracle.permute(ids, 6),
        None if weights is None else bounds.exactly(weights.double()),
        NUMERICS,
    )
    assert tap.exact
    return tap.value.float()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str
)
@pytest.mark.parametrize("columns", [1, 7, 136, 1032])
def test_combine_equals_oracle(
    dtype: torch.dtype, columns: int, emulated: None
) -> None:
    given_ = combined(dtype, columns)
    rows = oracle.permute(given_["ids"], 6).slots
    got = combine(given_["down"], rows, given_["weights"])
    assert torch.equal(got, expected(**given_).to(dtype))


def test_combine_without_rows_is_zero(emulated: None) -> None:
    down = torch.full((2, 8), math.nan)
    weights = torch.full((3, 2), math.inf)
    inverse = torch.full((3, 2), -1, dtype=torch.int32)
    assert torch.equal(combine_rows(down, inverse, weights), torch.zeros(3, 8))
    assert combine_rows(down[:0], inverse[:0], weights[:0]).shape == (0, 8)


@pytest.mark.parametrize("naive", [False, True])
def test_combine_joins_each_part_once(naive: bool, emulated: None) -> None:
    given_ = combined(torch.bfloat16)
    inverse = oracle.permute(given_["ids"], 6).inverse.int()
    generator = torch.Generator().manual_seed(5)
    shared = torch.randn(21, 136, generator=generator)
    gate = torch.rand(21, generator=generator)
    got = combine_rows(
        given_["down"], inverse, given_["weights"], scale=2.5, shared=shared, gate=gate,
        factor=0.5, dtype=torch.float32, naive=naive,
    )  # fmt: skip
    want = (expected(**given_) * 2.5 + shared * gate[:, None]) * 0.5
    assert torch.equal(got, want)


def test_combine_hands_x_on_for_identity_experts(emulated: None) -> None:
    given_ = combined(torch.bfloat16)
    ids = given_["ids"].clone()
    ids[::2, 1] = 6 + torch.arange(11) % 3
    weights = torch.rand(21, 3)
    x = torch.randn(21, 136).to(torch.bfloat16)
    permutation = oracle.permute(torch.where(ids >= 6, -1, ids), 6)
    down = given_["down"][: len(permutation.slots)].contiguous()
    got = combine_rows(
        down, permutation.inverse.int(), weights, identity=(ids.int(), x, 6),
        dtype=torch.float32,
    )  # fmt: skip
    tap, moved = experts.with_identity(
        bounds.exactly(down.double()), permutation, bounds.exactly(x.double()), ids, 6
    )
    want = experts.combine(tap, moved, bounds.exactly(weights.double()), NUMERICS)
    assert torch.equal(got, want.value.float())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sort_slots(torch.zeros(2, 2), 4), TypeError,
         "permute: ids is float32; convert it to int32, int64"),
        (lambda: sort_slots(torch.zeros(2, dtype=torch.int32), 4), ValueError,
         r"ids has shape \(2,\); it must be \[any, any\]"),
        (lambda: sort_slots(torch.zeros(2, 2).int(), 4, local=(2, 5)), ValueError,
         r"local=\(2, 5\) is no range inside 0..4"),
        (lambda: sort_slots(torch.zeros(2, 2).int(), 4, block=0), ValueError,
         "block=0 must be at least 1"),
        (lambda: sort_slots(torch.zeros(2, 2).int(), 4, block=2**31), ValueError,
         r"exceed 2\^31 rows; split the tokens"),
        (lambda: combine(torch.zeros(2, 4), torch.zeros(2), torch.zeros(1, 2)),
         TypeError, "combine: rows is float32; convert it to int32, int64"),
        (lambda: combine_rows(torch.zeros(2, 4), zeros(1, 2), torch.zeros(2, 2)),
         ValueError, r"weights has shape \(2, 2\); it must be \[1, 2\]"),
        (lambda: combine_rows(torch.zeros(2, 4), zeros(1, 2), None,
                              shared=torch.zeros(1, 3)),
         ValueError, r"shared has shape \(1, 3\); it must be \[1, 4\]"),
        (lambda: combine_rows(torch.zeros(2, 4), zeros(1, 2), None, dtype=torch.int8),
         TypeError, "dtype=torch.int8; take float32"),
        (lambda: gather(torch.zeros(2, 4), torch.zeros(2).long(), 2), TypeError,
         "gather: rows is int64; convert it to int32"),
    ],
)  # fmt: skip
def test_permute_refuses(
    call: Callable[[], object], error: type[Exception], message: str, emulated: None
) -> None:
    with pytest.raises(error, match=message):
        call()


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)
