"""Laws of experts: numbers mean nothing, and experts that nobody chooses do nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.params import Params, Weight
from refmoe.case import Case, elements
from refmoe.generator import Stream
from refmoe.laws.relation import Agreement, Launch, Law, Side, Steps, each
from refmoe.port import Port
from refmoe.problem import Problem

_OPS = ("route", "experts", "moe", "omni_experts")
#: Params with a row for each expert.
_OWNED = ("gate_up", "down", "gate_up_bias", "down_bias", "alpha", "beta", "limit")
#: A logit, and a bias, that no expert is chosen with.
_NEVER = -8192.0
_LOCAL = "numbers say which experts a rank has"
#: More experts than 8 bits can number, where a layer stays below so many elements.
_MANY, _LARGEST = 288, 1 << 23


def _renumbered(problem: Problem, port: Port) -> Steps:
    """Every expert gets another number, within its group and with its group."""
    groups = problem.layer.routing.groups
    size = problem.layer.experts // groups
    stream = Stream(problem.case.seed, "law/experts")
    group = _cycle(stream.substream("groups"), groups)
    member = _cycle(stream.substream("members"), size)
    number = (group[:, None] * size + member).reshape(-1)
    return (yield from _compared(problem, "renumbered", number, len(number)))


def _cycle(stream: Stream, size: int) -> torch.Tensor:
    """A permutation in one cycle, which leaves nothing in its place."""
    order = stream.permutations(1, size)[0]
    return torch.empty_like(order).scatter(0, order, order.roll(1))


def _joined(problem: Problem, port: Port) -> Steps:
    """Experts that nobody chooses stand before the last one of every group."""
    layer = problem.layer
    groups = layer.routing.groups
    size = layer.experts // groups
    joined = -(-_MANY // groups)
    factor = groups * joined / layer.experts
    if joined <= size or elements(problem.case) * factor > _LARGEST:
        joined = size + 1
    place = torch.arange(size)
    place[-1] = joined - 1
    number = (torch.arange(groups)[:, None] * joined + place).reshape(-1)
    return (yield from _compared(problem, "joined by others", number, groups * joined))


def _compared(problem: Problem, name: str, number: torch.Tensor, count: int) -> Steps:
    first, second = (
        Launch("as given", problem),
        Launch(name, _other(problem, number, count)),
    )
    yield from each(first, second)
    extra = torch.arange(problem.layer.routing.zero_experts)
    numbers = torch.cat([number, count + extra])
    return [Agreement(Side((first,), numbers=numbers), Side((second,)))]


def _other(problem: Problem, number: torch.Tensor, count: int) -> Problem:
    """The problem with `count` experts, of which the old ones have these numbers.

    The others are copies of old ones that no token chooses.
    """
    layer, experts = problem.layer, problem.layer.experts
    source = torch.arange(count) % experts
    source[number] = torch.arange(experts)
    unused = torch.ones(count, dtype=torch.bool)
    unused[number] = False

    def columns(values: torch.Tensor, fill: float | None) -> torch.Tensor:
        """The last axis, of experts and then of what has no weights."""
        own = values[..., :experts][..., source]
        own = own if fill is None else own.masked_fill(unused, fill)
        return torch.cat([own, values[..., experts:]], -1)

    def ids(values: torch.Tensor) -> torch.Tensor:
        """Ids of experts, of identity experts, and -1 for none."""
        own = number[values.long().clamp(0, experts - 1)].to(values.dtype)
        beyond = values + (count - experts)
        return torch.where(
            values < 0, values, torch.where(values < experts, own, beyond)
        )

    inputs: dict[str, Any] = dict(problem.inputs)
    if "logits" in inputs:
        inputs["logits"] = columns(inputs["logits"], _NEVER)
    if "ids" in inputs:
        inputs["ids"] = ids(inputs["ids"])
    for name in ("up", "down"):
        if name in inputs:
            inputs[name] = inputs[name][source]
    return problem.but(
        case=problem.case.but(E=count),
        layer=replace(layer, experts=count),
        params=_params(problem.params, source, columns, ids),
        inputs=inputs,
    )


def _params(params: Params, source: torch.Tensor, columns: Any, ids: Any) -> Params:
    changes: dict[str, Weight] = {}
    for name in _OWNED:
        value = getattr(params, name)
        if value is not None:
            changes[name] = value[source]
    for name, fill in (("router_bias", _NEVER), ("per_expert_scale", None)):
        value = getattr(params, name)
        if value is not None:
            changes[name] = columns(value, fill)
    if params.hash_table is not None:
        changes["hash_table"] = ids(params.hash_table)
    return replace(params, **changes)  # type: ignore[arg-type]


def _one_expert(case: Case, port: Port) -> str | None:
    if case.layer.experts < 2:
        return "one expert has one number"
    if case.layer.routing.method == "sparsemixer" and case.op != "experts":
        return "of two equals the sparse mixer weighs the one taken first otherwise"
    return _LOCAL if case.local else None


def _groups_of_one(case: Case, port: Port) -> str | None:
    if case.local:
        return _LOCAL
    layer = case.layer
    alone = layer.experts == layer.routing.groups > 1
    if alone and layer.routing.group_score == "top2":
        return "a second expert changes the strength of a group of one"
    return None


EXPERT_NUMBERS = Law(
    "expert_numbers",
    "experts under other numbers, with their logits and weights, do the same",
    _OPS,
    _renumbered,
    _one_expert,
    "expert_0_taken_for_none",
    ((33, 64, 32), (18, 96, 64)),
)
MORE_EXPERTS = Law(
    "more_experts",
    "experts that no token chooses change nothing, more than 256 of them either",
    _OPS,
    _joined,
    _groups_of_one,
    "experts_from_256_on_are_ignored",
    ((33, 64, 32), (18, 96, 64)),
)
