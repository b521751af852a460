"""Laws of parts: tactics, stages and ranks of a port amount to the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from oracle.spec import BlockFormat, Layer
from refmoe.case import Case
from refmoe.laws.relation import Agreement, Launch, Law, Side, Steps, each
from refmoe.laws.rows import formats
from refmoe.port import Port, accepts
from refmoe.problem import Problem, build
from refmoe.verdict import Outcome

_RANKS = 2
_STAGES = ("permute", "grouped_gemm", "activate", "combine")


def _tactics(problem: Problem, port: Port) -> Steps:
    launches = [
        Launch(f"tactic {tactic}", problem, tactic)
        for tactic in port.tactics(problem.case)
    ]
    yield from each(*launches)
    first, *rest = launches
    return [Agreement(Side((first,)), Side((other,))) for other in rest]


def _one_tactic(case: Case, port: Port) -> str | None:
    some = len(port.tactics(case)) > 1
    return None if some else f"there is one tactic of {case.op}"


def _modular(problem: Problem, port: Port) -> Steps:
    """The layer in one call, and its ops one after the other on their own results.

    A correct router's weights lie within the bounds of the layer's, and so does what
    the experts make of them.
    """
    whole = Launch("moe", problem)
    yield whole
    names = [name for name in ("logits", "token_ids") if name in problem.inputs]
    routed = yield Launch("route", _as(problem, "route", names))
    chosen = dict(routed.outputs)
    found = []
    if "experts" in port.ops:
        experts = Launch("experts", _as(problem, "experts", ["x"], **chosen))
        yield experts
        side = Side((experts,), bounds=(problem,), tap="out")
        found.append(Agreement(Side((whole,)), side))
    if _no_stages(problem.case, port) is None:
        combined = yield from _stages(problem, chosen["ids"], chosen["weights"])
        # GEMM1 and GEMM2 as ops return the layer's own type.
        points = ("gate_up", "down")
        side = Side((combined,), bounds=(problem,), tap="out", stored=points)
        found.append(Agreement(Side((whole,)), side))
    return found


def _stages(problem: Problem, ids: torch.Tensor, weights: torch.Tensor) -> Any:
    """permute, GEMM1, activate, GEMM2 and combine; returns the last launch."""
    layer, params = problem.layer, problem.params
    order: Outcome = yield Launch("permute", _as(problem, "permute", (), ids=ids))
    rows, offsets = order.outputs["rows"], order.outputs["offsets"]
    x = problem.inputs["x"][rows.long() // layer.top_k]
    first: Outcome = yield Launch(
        "GEMM1",
        _as(problem, "grouped_gemm", (), x=x, weights=params.gate_up, offsets=offsets),
    )
    owner = ids.reshape(-1)[rows.long()]
    gate_up = first.outputs["y"]
    hidden: Outcome = yield Launch(
        "activate", _as(problem, "activate", (), gate_up=gate_up, expert=owner)
    )
    x = hidden.outputs["intermediate"]
    # The layer whose GEMM1 has the shape of this GEMM2.
    wide = layer.hidden // _halves(layer)
    turned = problem.but(
        layer=layer.resized(hidden=layer.intermediate, intermediate=wide),
        case=problem.case.but(H=layer.intermediate, I=wide),
    )
    second: Outcome = yield Launch(
        "GEMM2",
        _as(turned, "grouped_gemm", (), x=x, weights=params.down, offsets=offsets),
    )
    down = second.outputs["y"]
    last = Launch(
        "combine", _as(problem, "combine", (), down=down, rows=rows, weights=weights)
    )
    yield last
    return last


def _halves(layer: Layer) -> int:
    """Into how many parts the activation takes its rows."""
    return 2 if layer.activation.gated else 1


def _as(problem: Problem, op: str, names: Sequence[str], **inputs: Any) -> Problem:
    """The same layer as a problem of another op, on some of its inputs and others."""
    given = {name: problem.inputs[name] for name in names}
    case = problem.case.but(op=op)
    return problem.but(case=case, inputs={**given, **inputs})


def _no_modules(case: Case, port: Port) -> str | None:
    if "route" not in port.ops:
        return "there is no op route"
    if case.layer.shared is not None:
        return "no op adds the shared expert"
    return None if "experts" in port.ops else _no_stages(case, port)


def _no_stages(case: Case, port: Port) -> str | None:
    missing = [op for op in _STAGES if op not in port.ops]
    if missing:
        return f"there is no op {missing[0]}"
    layer, numerics = port.definition(case.layer)
    plain = (layer.activations, layer.requantize, numerics.intermediate)
    if any(kind != layer.dtype for kind in (*plain, numerics.output or layer.dtype)):
        return f"a stage is not in {layer.dtype}, the layer's own type"
    between = (
        layer.expert_bias,
        layer.weight_on != "output",
        layer.routing.zero_experts,
        layer.routing.scale_on == "sum",
        layer.hidden % _halves(layer),
    )
    return "no op does what this layer has between the stages" if any(between) else None


def _expert_ranks(problem: Problem, port: Port) -> Steps:
    return (yield from _ranks(problem, "local"))


def _tensor_ranks(problem: Problem, port: Port) -> Steps:
    return (yield from _ranks(problem, "shard"))


def _ranks(problem: Problem, field: str) -> Steps:
    """Each rank's part of the layer, then the whole."""
    parts = [
        Launch(f"rank {rank}", _of_rank(problem, field, rank)) for rank in range(_RANKS)
    ]
    whole = Launch("all ranks at once", problem)
    yield from each(*parts, whole)
    return [Agreement(Side((whole,)), Side(tuple(parts)))]


def _of_rank(problem: Problem, field: str, rank: int) -> Problem:
    case = problem.case.but(**{field: f"{rank}/{_RANKS}"})
    return build(case, problem.numerics)


def _no_local(case: Case, port: Port) -> str | None:
    if not accepts(port.ops[case.op], "local"):
        return f"{case.op} has no keyword `local`"
    few = case.layer.experts < _RANKS
    return f"fewer experts than {_RANKS} ranks" if few else _split(case)


def _no_shard(case: Case, port: Port) -> str | None:
    layer = case.layer
    form = layer.requantize
    if isinstance(form, BlockFormat) and not form.block[1]:
        return f"in {form.name} a row of the intermediate has one scale"
    if isinstance(layer.weights, BlockFormat) and 0 in layer.weights.block:
        return f"blocks of {layer.weights.name} span an axis that would be cut"
    sizes = [size for form in formats(layer) for size in form.block if size]
    if layer.intermediate % (_RANKS * math.lcm(*sizes)):
        return f"I={layer.intermediate} does not divide into {_RANKS} ranks"
    if layer.routing.zero_experts or (
        layer.shared is not None and layer.shared.combine in ("average", "rsqrt2")
    ):
        return "ranks do not add up what they replicate"
    return _split(case)


def _split(case: Case) -> str | None:
    split = case.local or case.shard
    return f"the case is that of rank {split} already" if split else None


TACTICS = Law(
    "tactics",
    "every tactic has the same results",
    (),
    _tactics,
    _one_tactic,
    "second_tactic_drops_a_tile",
    ((18, 96, 64),),
)
MODULAR = Law(
    "modular",
    "the layer in one call does what its ops do one after the other",
    ("moe",),
    _modular,
    _no_modules,
    "one_call_without_renormalising",
    ((18, 96, 64), (33, 64, 32)),
)
EXPERT_RANKS = Law(
    "expert_ranks",
    "ranks with some of the experts each sum to the whole",
    ("experts", "moe"),
    _expert_ranks,
    _no_local,
    "absent_experts_are_the_first",
    ((18, 96, 64), (33, 64, 32)),
)
TENSOR_RANKS = Law(
    "tensor_ranks",
    "ranks with a run of the intermediate each sum to the whole",
    ("experts", "moe"),
    _tensor_ranks,
    _no_shard,
    "products_from_256_on",
    ((5, 32, 512), (18, 96, 256)),
)
