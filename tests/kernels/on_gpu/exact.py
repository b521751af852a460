"""Permutations, combined rows and product keys, equal bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from on_gpu.place import DTYPES, Place, name_of
from on_gpu.report import Check, equal

from oracle import experts, omni, permutation
from oracle.bounds import exactly
from oracle.numerics import Numerics
from refmoe.kernels.launchers.combine import combine, combine_rows
from refmoe.kernels.launchers.omni import TACTICS, omni_route
from refmoe.kernels.launchers.permute import align, gather, sort_slots


def permuting(place: Place) -> Iterator[Check]:
    """Sorting, aligning, gathering and combining rows."""
    sizes = [(1, 1, 1), (3, 2, 5), (129, 3, 40), (700, 2, 130)]
    if place.large:
        sizes += [(8192, 8, 256), (8192, 4, 128), (30000, 6, 384), (4097, 10, 1024)]

    def sort(tokens: int, k: int, count: int, naive: bool) -> None:
        ids = place.ids(tokens, k, count)
        want = permutation.permute(ids, count)
        made = sort_slots(ids, count, naive=naive)
        rows = len(want.slots)
        equal(made.rows[:rows].long(), want.slots, "rows")
        equal(made.starts.long(), want.offsets, "offsets")
        equal(made.inverse.long(), want.inverse, "inverse")
        assert bool((made.rows[rows:] == -1).all()), "rows past the last"

    def aligned(tokens: int, k: int, count: int, block: int) -> None:
        ids = place.ids(tokens, k, count)
        want = permutation.align(permutation.permute(ids, count), block)
        made, owners = align(ids, count, block)
        end = len(want.slots)
        equal(made.rows[:end].long(), want.slots, "rows")
        assert bool((made.rows[end:] == made.padding).all()), "padding"
        equal(owners[: end // block].long(), want.experts, "owners")

    def joined(
        tokens: int, k: int, count: int, columns: int, dtype: torch.dtype
    ) -> None:
        ids = place.ids(tokens, k, count)
        want = permutation.permute(ids, count)
        x = place.randn(tokens, columns).to(dtype)
        made = sort_slots(ids, count)
        rows = len(want.slots)
        down = gather(x, made.rows, k)[:rows].contiguous()
        equal(down, x[want.tokens], "gathered")
        weights = place.randn(tokens, k, seed=5)
        tap = experts.combine(
            exactly(down.double()), want, exactly(weights.double()),
            Numerics(combine_order="slot"),
        )  # fmt: skip
        total = tap.value.to(dtype)
        equal(combine(down, want.slots, weights), total, "combined")
        equal(combine_rows(down, made.inverse, weights, naive=True), total, "naive")

    for size in sizes:
        yield f"sort {size}", lambda s=size: sort(*s, naive=False)
        if size[0] < 1000:
            yield f"sort {size} naive", lambda s=size: sort(*s, naive=True)
        for block in (16, 64):
            yield f"align {size} {block}", lambda s=size, b=block: aligned(*s, b)
    for columns in (1, 7, 136, 2880):
        for name, dtype in DTYPES.items():
            yield (
                f"gather, combine {columns} {name}",
                lambda a=columns, b=dtype: joined(129, 3, 40, a, b),
            )


def product_keys(place: Place) -> Iterator[Check]:
    """The router of sums under every tactic and type, with ties and infinities."""
    tokens = 300 if place.large else 7

    def sides(n: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(n)
        both = torch.randn(2, tokens, n, generator=generator)
        both[:, 1::7] = both[:, 1::7].mul(2).round().div(2)
        both[0, 2::7] *= 1000
        both[:, 3::7] = -both[:, 3::7].abs() - 5
        both[:, 4::7] = 0.25
        both[1, 5::7, n // 2 :] = -math.inf
        both[1, 6::7, 0] = math.nan
        both = both.to(place.device, dtype)
        return both[0].contiguous(), both[1].contiguous()

    def run(n: int, k: int, dtype: torch.dtype, sum_type: str, **how: object) -> None:
        x, y = sides(n, dtype)
        scores, ids = omni_route(x, y, k, sum_type=sum_type, **how)  # type: ignore[arg-type]
        want = omni.omni_route(x, y, k, sum_type=sum_type)
        equal(ids.long(), want.ids, "ids")
        equal(scores.double(), want.scores, "scores")

    fp32, bf16, fp16 = torch.float32, torch.bfloat16, torch.float16
    for n, k in ((1, 1), (3, 9), (64, 16), (100, 31), (128, 32), (256, 16), (256, 128)):
        for tactic in TACTICS:
            yield (
                f"n={n} k={k} {tactic}",
                lambda a=n, b=k, t=tactic: run(a, b, fp32, "fp32", tactic=t),
            )
    for dtype, sum_type in ((bf16, "fp32"), (bf16, "bf16"), (fp16, "fp16")):
        for n, k in ((16, 16), (128, 16)):
            yield (
                f"n={n} k={k} {name_of(dtype)} in {sum_type}",
                lambda a=n, b=k, d=dtype, s=sum_type: run(a, b, d, s),
            )
    yield "n=20 k=33 naive", lambda: run(20, 33, fp32, "fp32", naive=True)
    if place.large:
        yield "n=300 k=4", lambda: run(300, 4, fp32, "fp32")
