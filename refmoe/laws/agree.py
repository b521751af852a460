"""Whether two sides agree. Only the oracle's bounds take part, never its values."""

from __future__ import annotations

import math
from functools import partial

import torch

from refmoe.compare import distance, unravel
from refmoe.laws.relation import Agreement, Side
from refmoe.laws.sides import NAMES, Definition, Outcomes, Reach, reach, results
from refmoe.problem import Problem
from refmoe.verdict import Kind, Verdict

#: Most rows that bounds are derived for; those that differ most come first.
ROWS = 64
#: Ops whose floats are a contract of bits.
_EXACT = ("quantize", "grouped_quantize", "dequantize", "omni_route")
_BYTES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def agree(
    agreement: Agreement,
    outcomes: Outcomes,
    definition: Definition,
    *,
    stable: bool = False,
) -> tuple[Verdict, ...]:
    """The verdict of each result: got is the second side's, wanted the first's.

    Integers agree exactly. Floats of equal value agree; where they differ, each side
    may be off by its own bound: |a - b| <= radius of a + radius of b + |centre of a -
    centre of b|, the last for sides that round in other places. Tokens whose choice of
    experts is open may differ. Under `bits` nothing may.
    """
    first = results(agreement.first, outcomes, stable=stable)
    second = results(agreement.second, outcomes, stable=stable)
    op = agreement.first.problems[0].case.op
    compared = _Compared(agreement, outcomes, definition)
    if op == "route" and not agreement.bits:
        return compared.routed(first, second)
    found = []
    for name, a in first.items():
        b = second.get(name)
        if b is None or b.shape != a.shape:
            found.append(compared.misshapen(name, a, b))
        elif agreement.bits:
            found.append(compared.equal(name, a, b, _bits(a) != _bits(b)))
        elif op in _EXACT or not a.is_floating_point():
            differs = distance(a.double(), b.double()) > 0
            found.append(compared.equal(name, a, b, differs))
        else:
            found.append(compared.close(name, a, b))
    return tuple(found)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(_BYTES[tensor.dtype.itemsize])


class _Compared:
    """The verdicts of one agreement."""

    def __init__(
        self, agreement: Agreement, outcomes: Outcomes, definition: Definition
    ) -> None:
        self.agreement = agreement
        self.outcomes = outcomes
        self.definition = definition
        if agreement.first.numbers is not None:
            # Another number may stand on the other side of an equal key.
            self.definition = partial(_with_any_ties, definition)

    def misshapen(self, name: str, a: torch.Tensor, b: torch.Tensor | None) -> Verdict:
        """Results that cannot be compared."""
        shape = "is missing" if b is None else f"has shape {tuple(b.shape)}"
        first, second = self.agreement.first, self.agreement.second
        detail = f"{name} of {second} {shape}, of {first} {tuple(a.shape)}"
        return Verdict(Kind.WRONG, name, detail=detail)

    def equal(
        self, name: str, a: torch.Tensor, b: torch.Tensor, differs: torch.Tensor
    ) -> Verdict:
        """What must be the same everywhere."""
        dtype = _name(a)
        if not bool(differs.any()):
            return Verdict(Kind.BIT_EQUAL, name, ratio=0.0, median=0.0, dtype=dtype)
        index = unravel(int(differs.reshape(-1).int().argmax()), a.shape)
        want = a[index].item()
        return Verdict(
            Kind.WRONG, name, index, b[index].item(), want, want, math.inf, dtype=dtype,
            detail=self._told(differs, differs.numel()),
        )  # fmt: skip

    def _told(self, differs: torch.Tensor, total: int) -> str:
        exact = ", to the bit as declared" if self.agreement.bits else ""
        return (
            f"{self.agreement.second} against {self.agreement.first}{exact}: "
            f"{int(differs.sum())} of {total} elements disagree"
        )

    def close(
        self,
        name: str,
        a: torch.Tensor,
        b: torch.Tensor,
        chosen: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Verdict:
        """Values within the bounds of both sides.

        Shapes: a, b: [n, m]; chosen: each side's own ids i64[n, k] of those values
        """
        # What several launches add up to is none of the results' type.
        dtype = _name(a)
        error = distance(a.double(), b.double())
        rows = _rows(error, a)
        if not len(rows):
            return Verdict(Kind.BIT_EQUAL, name, ratio=0.0, median=0.0, dtype=dtype)
        mine, other = (
            self._reach(side, name, rows, None if chosen is None else chosen[place])
            for place, side in enumerate((self.agreement.first, self.agreement.second))
        )
        radius = mine.radius + other.radius + distance(mine.value, other.value)
        error, open_ = error[rows], mine.open | other.open
        bad = error > radius
        kind = Kind.AMBIGUOUS if bool(bad.any()) else Kind.WITHIN
        bad &= ~open_[:, None]
        if bool(bad.any()):
            kind = Kind.WRONG
        ratio = torch.where(radius > 0, error / radius, math.inf)
        ratio = torch.where((error == 0) | (radius == math.inf), 0.0, ratio)
        ratio = ratio.masked_fill(open_[:, None], 0.0)
        place, column = unravel(int(ratio.argmax()), ratio.shape)
        index = (int(rows[place]), column)
        want, reach_ = float(a[index]), float(radius[place, column])
        return Verdict(
            kind, name, index, float(b[index]), want - reach_, want + reach_,
            float(ratio.max()), float(ratio.median()), dtype,
            self._told(bad, a.numel()) if kind is Kind.WRONG else "",
        )  # fmt: skip

    def _reach(
        self, side: Side, name: str, rows: torch.Tensor, ids: torch.Tensor | None
    ) -> Reach:
        given = None if ids is None else ids[rows]
        return reach(side, self.outcomes, name, rows, self.definition, given)

    def routed(
        self, first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]
    ) -> tuple[Verdict, ...]:
        """Chosen experts in any order, and the weights of each."""
        a, b = first["ids"].long(), second["ids"].long()
        numbers = self.agreement.first.numbers
        named = a if numbers is None else numbers[a]
        by_a, by_b = named.argsort(1), b.argsort(1)
        same = (named.gather(1, by_a) == b.gather(1, by_b)).all(1)
        choice = self._choice(named, b, same)
        if choice.kind is Kind.WRONG:
            return (choice,)
        weights = self.close(
            "weights",
            torch.where(same[:, None], first["weights"].gather(1, by_a), 0.0),
            torch.where(same[:, None], second["weights"].gather(1, by_b), 0.0),
            (a.gather(1, by_a), b.gather(1, by_b)),
        )
        return choice, weights

    def _choice(self, a: torch.Tensor, b: torch.Tensor, same: torch.Tensor) -> Verdict:
        if bool(same.all()):
            return Verdict(Kind.BIT_EQUAL, "ids", ratio=0.0, median=0.0, dtype="int64")
        rows = (~same).nonzero().reshape(-1)[:ROWS]
        sides = (self.agreement.first, self.agreement.second)
        open_ = [self._reach(side, "weights", rows, None).open for side in sides]
        left = rows[~(open_[0] | open_[1])]
        if not len(left):
            return Verdict(Kind.AMBIGUOUS, "ids", ratio=0.0, median=0.0, dtype="int64")
        t = int(left[0])
        want, have = a[t].tolist(), b[t].tolist()
        slot = next((j for j, id_ in enumerate(have) if id_ not in want), 0)
        return Verdict(
            Kind.WRONG, "ids", (t, slot), have[slot], ratio=math.inf, dtype="int64",
            detail=f"{self.agreement.second} chose {have}, {self.agreement.first} "
            f"{want} for the same token",
        )  # fmt: skip


def _with_any_ties(definition: Definition, problem: Problem) -> Problem:
    declared = definition(problem)
    return declared.but(numerics=declared.numerics.but(ties="any"))


def _rows(error: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Rows that differ, at most ROWS: those by the largest share of their values."""
    if not error.numel():
        return torch.zeros(0, dtype=torch.int64)
    worst = error.amax(1)
    share = worst / a.double().nan_to_num().abs().amax(1)
    share = share.nan_to_num(nan=math.inf, posinf=math.inf)
    share = torch.where(worst > 0, share, -1.0)
    order = share.argsort(descending=True)[:ROWS]
    return order[share[order] >= 0].sort().values


def _name(tensor: torch.Tensor) -> str:
    return NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
