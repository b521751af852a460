"""Laws of tokens: their order and their company change nothing."""

from __future__ import annotations

import torch

from refmoe.case import Case
from refmoe.generator import Stream
from refmoe.laws.relation import Agreement, Launch, Law, Side, Steps, each
from refmoe.laws.rows import ALIGNED, count, entangled, taken
from refmoe.port import Port
from refmoe.problem import Problem


def _permuted(problem: Problem, port: Port) -> Steps:
    order = Stream(problem.case.seed, "law/order").permutations(1, count(problem))[0]
    whole = Launch("in order", problem)
    moved = Launch("permuted", taken(problem, order))
    yield from each(whole, moved)
    return [Agreement(Side((whole,), rows=order), Side((moved,)))]


def _split(problem: Problem, port: Port) -> Steps:
    """One row alone, then the others in two parts, then all of them.

    The largest launch comes last, so that no smaller one finds what it left.
    """
    rows = count(problem)
    middle = 1 + (rows - 1) // 2
    parts = [
        (f"rows {start} to {stop - 1}", torch.arange(start, stop))
        for start, stop in ((0, min(1, rows)), (1, middle), (middle, rows))
        if start < stop
    ]
    parts = parts or [("no rows", torch.arange(0))]
    launches = [Launch(name, taken(problem, part)) for name, part in parts]
    whole = Launch("all rows", problem)
    yield from each(*launches, whole)
    bits = bool(port.get("batch_invariant", False))
    return [
        Agreement(Side((whole,), rows=part), Side((launch,)), bits)
        for launch, (_, part) in zip(launches, parts, strict=True)
    ]


def _unfit(case: Case, port: Port) -> str | None:
    return entangled(case)


TOKEN_ORDER = Law(
    "token_order",
    "tokens in another order have the same results in that order",
    tuple(ALIGNED),
    _permuted,
    _unfit,
    "equal_choices_share_their_weights",
    ((37, 96, 64), (130, 64, 32)),
)
BATCH = Law(
    "batch",
    "a batch has the results of its parts; the same bits where `batch_invariant`",
    tuple(ALIGNED),
    _split,
    _unfit,
    "honest_on_small_batches",
    ((600, 64, 32), (67, 96, 64)),
)
