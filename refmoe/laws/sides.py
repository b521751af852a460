"""What a side of an agreement shows, and how far the arithmetic lets it stray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from oracle import bounds
from oracle.trace import Tap, Trace
from refmoe import reference
from refmoe.laws.relation import Side
from refmoe.problem import Problem
from refmoe.regimes.regime import TORCH
from refmoe.verdict import Outcome

NAMES = {dtype: name for name, dtype in TORCH.items()}
Outcomes = Mapping[str, Outcome]
#: A problem as the port declares it, under one of the arithmetics that it may have.
Definition = Callable[[Problem], Problem]

#: Ops of which the oracle traces some rows alone.
_BY_ROWS = ("route", "experts", "moe")


def results(side: Side, outcomes: Outcomes, *, stable: bool) -> dict[str, torch.Tensor]:
    """A side's results, added up over its launches, by the tap that both sides name."""
    parts = [outcomes[launch.name].outputs for launch in side.launches]
    op = side.launches[0].problem.case.op
    found = {}
    for name, value in parts[0].items():
        if len(parts) > 1:
            value = torch.stack([part[name].double() for part in parts]).sum(0)
        if op == "permute" and name == "rows" and not stable:
            value = _by_expert(value, parts[0]["offsets"])
        if value.ndim and side.rows is not None:
            value = value[side.rows]
        if value.ndim and side.columns is not None:
            value = value[..., : side.columns]
        found[side.tap or name] = value
    return found


def _by_expert(rows: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Rows in rising order inside each expert: that order is nobody's contract."""
    owner = torch.repeat_interleave(offsets.long().diff().clamp_min(0))
    if len(owner) != len(rows):
        return rows
    by_row = rows.long().sort(stable=True).indices
    return rows[by_row[owner[by_row].sort(stable=True).indices]]


@dataclass(frozen=True, slots=True)
class Reach:
    """Where values of a side may lie: value +- radius; tokens whose choice is open.

    Shapes: value, radius: f64[n, m]; open: bool[n]
    """

    value: torch.Tensor
    radius: torch.Tensor
    open: torch.Tensor


def reach(
    side: Side,
    outcomes: Outcomes,
    name: str,
    rows: torch.Tensor,
    definition: Definition,
    ids: torch.Tensor | None = None,
) -> Reach:
    """The oracle's bounds of those rows of a side.

    Shapes: rows: i64[n], of the rows that the side shows; ids: i64[n, k], what the port
    chose there, in the numbers of the launch
    """
    own = rows if side.rows is None else side.rows[rows]
    last = slice(None) if side.columns is None else slice(side.columns)
    value, radius = torch.zeros((), dtype=torch.float64), torch.zeros(())
    open_ = torch.zeros(len(rows), dtype=torch.bool)
    for launch, problem in zip(side.launches, side.problems, strict=True):
        problem = definition(problem)
        kept = {point: problem.layer.dtype for point in side.stored}
        numerics = problem.numerics.but(**kept)
        found = _trace(problem.but(numerics=numerics), own, ids)
        outputs = outcomes[launch.name].outputs
        shown = outputs[name if name in outputs else next(iter(outputs))]
        tap = bounds.rounded(found[name], NAMES[shown.dtype], numerics)
        value = value + tap.value[:, last]
        radius = radius + (0.0 if tap.worst is None else tap.worst[:, last])
        chosen = found.taps.get("ids")
        if ids is None and chosen is not None and chosen.admissible is not None:
            open_ |= chosen.admissible.ambiguous
    return Reach(value, radius.expand_as(value), open_)


def _trace(problem: Problem, rows: torch.Tensor, ids: torch.Tensor | None) -> Trace:
    if problem.case.op in _BY_ROWS:
        given = None if ids is None else {"ids": ids}
        return reference.trace(problem, rows=rows, given=given)
    whole = reference.trace(problem)
    picked = {
        name: tap.map(lambda values: values[rows])
        for name, tap in whole.items()
        if tap.value.is_floating_point()
    }
    return Trace({name: _double(tap) for name, tap in picked.items()})


def _double(tap: Tap) -> Tap:
    return Tap(tap.value.double(), tap.worst, tap.likely, tap.probability)
