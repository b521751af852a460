"""The order in which the rows of one token are added, revealed like a dot product's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch

from refmoe.generator import Stream
from refmoe.identify import tree as trees
from refmoe.identify.tree import Pair, Tree
from refmoe.identify.wires import PIECES, Wires, found_weight

REPEATS = 3


@dataclass(frozen=True, slots=True)
class Combining:
    """Trees over experts, of a token whose slots are in expert order and of another."""

    ids: tuple[tuple[int, ...], ...]
    trees: tuple[Tree | None, ...]
    deterministic: bool

    @property
    def orders(self) -> tuple[str, ...]:
        """The declarations that the trees fit, the narrowest first; "any" always."""
        found = []
        in_slots = zip(self.trees, self.ids, strict=True)
        if all(t is not None and trees.is_chain(t, ids) for t, ids in in_slots):
            found.append("slot")
        if all(
            t is not None and trees.is_chain(t, sorted(ids))
            for t, ids in zip(self.trees, self.ids, strict=True)
        ):
            found.append("expert")
        return (*found, "any")


def examine(wired: Wires) -> Combining:
    """Reveal both trees; raises Silent if the port refuses the numbers."""
    count = wired.layer.top_k
    order = Stream(1, "slots").permutations(1, count)[0]
    ids = torch.stack([torch.arange(count), order])

    def run(pairs: list[Pair]) -> torch.Tensor:
        y = torch.zeros(wired.layer.experts, wired.layer.hidden, dtype=torch.float64)
        y[:count, : len(pairs)] = 1.0
        column = torch.arange(len(pairs))
        first, second = torch.tensor(pairs).T
        y[first, column], y[second, column] = 2.0**60, -(2.0**60)
        pieces = torch.zeros(*y.shape, PIECES, dtype=torch.float64)
        pieces[..., 0] = y
        found = wired.run(wired.constants(pieces), ids=ids)
        return found[:, : len(pairs)] / found_weight(wired.case)

    every = list(combinations(range(count), 2))
    counts = run(every)
    same = all(torch.equal(counts, run(every)) for _ in range(REPEATS - 1))
    sizes = count - counts.nan_to_num(0.0, 0.0, 0.0).round()

    def measure(pairs: list[Pair], token: int) -> dict[Pair, int]:
        return {pair: int(sizes[token, every.index(pair)]) for pair in pairs}

    found = [
        trees.reveal(count, partial(measure, token=token)) for token in range(len(ids))
    ]
    slots = ids if wired.weighted else ids[:1]
    return Combining(
        tuple(tuple(row) for row in slots.tolist()), tuple(found[: len(slots)]),
        same,
    )  # fmt: skip
