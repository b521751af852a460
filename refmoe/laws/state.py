"""Laws of state: what was launched before, and what lay in memory, change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks
from refmoe.case import Case
from refmoe.laws.relation import Agreement, Launch, Law, Side, Steps, each
from refmoe.laws.rows import ALIGNED, count, entangled, taken
from refmoe.port import Port
from refmoe.problem import Problem, build
from refmoe.protocol import OPS

#: Launches in a row: what goes wrong once in thirty shows in 97 of 100 runs.
_TIMES = 100
#: Elements that an input differs in, at its end.
_FEW = 3


def _replayed(problem: Problem, port: Port) -> Steps:
    """The same call before and after another of its shape and a larger one."""
    before = Launch("before", problem)
    after = Launch("after a larger one", problem)
    another = Launch("another", _seeded(problem, 1))
    larger = Launch("a larger one", _seeded(problem, 2, T=2 * problem.case.T))
    yield from each(before, another, larger, after)
    return [Agreement(Side((before,)), Side((after,)), _bits(port))]


def _seeded(problem: Problem, step: int, **changes: Any) -> Problem:
    """The problem of another seed."""
    case = problem.case
    return build(case.but(seed=case.seed + step, **changes), problem.numerics)


def _bits(port: Port) -> bool:
    return bool(port.get("deterministic", False))


def _repeated(problem: Problem, port: Port) -> Steps:
    launches = [Launch(f"launch {n}", problem) for n in range(_TIMES)]
    yield from each(*launches)
    first, *rest = launches
    return [Agreement(Side((first,)), Side((other,)), _bits(port)) for other in rest]


def _overwritten(problem: Problem, port: Port) -> Steps:
    """A call whose tensors another call used before, with other values in them.

    Weights change too, unless the port prepares them: then they are read only once.
    """
    other = _seeded(problem, 1)
    if port.get("prepare") is not None and OPS[problem.case.op].weighted:
        other = other.but(params=problem.params)
    fresh = Launch("elsewhere", problem)
    first = Launch("other values", other, memory="shared")
    overwritten = Launch("in the place of other values", problem, memory="shared")
    yield from each(fresh, first, overwritten)
    return [Agreement(Side((fresh,)), Side((overwritten,)))]


def _captured(problem: Problem, port: Port) -> Steps:
    """A call, and a graph that was captured on other values and replayed on these."""
    other = _seeded(problem, 1).but(params=problem.params)
    called = Launch("called", problem)
    replayed = Launch("replayed", problem, captured=other)
    yield from each(called, replayed)
    return [Agreement(Side((called,)), Side((replayed,)))]


def _near(problem: Problem, port: Port) -> Steps:
    """After the problem one like it but for a few elements, and that with rows rotated.

    The rotated one resembles nothing that came before.
    """
    yield Launch("the first", problem)
    order = torch.arange(count(problem)).roll(1)
    found = []
    for name, changed in _neighbours(problem):
        fresh = Launch(f"other {name}, rotated", taken(changed, order))
        like = Launch(f"other {name}", changed)
        yield from each(like, fresh)
        found.append(Agreement(Side((fresh,)), Side((like,), rows=order)))
    return found


def _neighbours(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """The problem with a few elements of one argument changed, for each argument."""
    for name in ALIGNED[problem.case.op]:
        value = problem.inputs.get(name)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            inputs = {**problem.inputs, name: _changed(value)}
            yield name, problem.but(inputs=inputs)
    if OPS[problem.case.op].weighted:
        down = _exchanged(problem.params.down)
        yield "weights", problem.but(params=replace(problem.params, down=down))
    bias = problem.params.router_bias
    if bias is not None and "logits" in problem.inputs:
        params = replace(problem.params, router_bias=_changed(bias))
        yield "bias", problem.but(params=params)


def _changed(value: torch.Tensor) -> torch.Tensor:
    """1 in place of the last elements, a half where they are 1."""
    value = value.clone()
    last = value.reshape(-1)[-_FEW:]
    last.copy_(torch.where(last == 1.0, 0.5, 1.0).to(last.dtype))
    return value


def _exchanged(weights: Any) -> Any:
    """Weights [E, N, K] with the last two rows of N in each other's place.

    Where rows share their scale, they have the same.
    """
    order = torch.arange(weights.shape[-2])
    order[-2:] = order[-2:].flip(0)
    if isinstance(weights, torch.Tensor):
        return weights[:, order]
    assert isinstance(weights, Blocks)
    scales = (
        weights.scales[:, order] if weights.format.block[0] == 1 else weights.scales
    )
    return replace(weights, codes=weights.codes[:, order], scales=scales)


def _empty(case: Case, port: Port) -> str | None:
    return None if case.T else "without rows nothing is computed"


def _no_graph(case: Case, port: Port) -> str | None:
    safe = port.get("graph_safe", False)
    if not safe:
        return "the port does not declare graph_safe"
    if safe is not True:
        for what, name in (("op", case.op), ("tactic", case.tactic)):
            if name is not None and name not in safe:
                return f"{what} {name} is not among what the port calls graph_safe"
    if not port.device.startswith("cuda"):
        return f"there are no graphs on {port.device}"
    return _empty(case, port)


def _alone(case: Case, port: Port) -> str | None:
    return entangled(case)


REPLAY = Law(
    "replay",
    "a call has the same results after others, a larger one among them",
    tuple(OPS),
    _replayed,
    _empty,
    "rows_of_a_larger_call",
    ((5, 64, 32), (18, 96, 64)),
)
REPEAT = Law(
    "repeat",
    f"{_TIMES} launches of one call agree; in every bit where `deterministic`",
    tuple(OPS),
    _repeated,
    _empty,
    "lost_update",
    ((2, 32, 32),),
)
OVERWRITTEN = Law(
    "overwritten",
    "tensors at the same addresses with other values in them count as other tensors",
    tuple(OPS),
    _overwritten,
    _empty,
    "cached_by_identity",
    ((5, 64, 32), (18, 96, 64)),
)
CAPTURED = Law(
    "captured",
    "a CUDA graph replayed on other values than it was captured on: `graph_safe`",
    tuple(OPS),
    _captured,
    _no_graph,
    "scalar_read_at_capture",
    ((5, 64, 32), (18, 96, 64)),
)
NEAR = Law(
    "near",
    "a few other elements in any one argument make another call",
    tuple(op for op in ALIGNED if op != "dequantize"),
    _near,
    _alone,
    "cached_by_samples",
    ((5, 64, 32), (18, 96, 64)),
)
