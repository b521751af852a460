"""What the oracle says about a problem: op -> taps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from oracle import bounds, moe
from oracle.activation import activate
from oracle.blocks import Quantised, dequantize, grouped_quantize, quantize
from oracle.experts import combine, grouped_gemm
from oracle.numerics import Numerics
from oracle.omni import omni_experts, omni_route, omni_route_backward
from oracle.operands import division_slack, operand, spans_rows
from oracle.params import Blocks
from oracle.permutation import Permutation, permute
from oracle.routing import route
from oracle.stages import Stages
from oracle.trace import Tap, Trace
from refmoe.problem import Problem

Rows = torch.Tensor | None
Given = Mapping[str, torch.Tensor]


def trace(
    problem: Problem,
    *,
    rows: Rows = None,
    given: Given | None = None,
    upto: str | None = None,
) -> Trace:
    """The taps of the problem's op, in the arithmetic that the problem declares.

    Shapes: rows i64[S], which of the judged tokens to compute (None: all), of `route`,
    `experts` and `moe`; `given` replaces taps of those tokens (of all where a scale
    spans rows, as in `oracle.moe.trace`): ids of `route`, any of `experts` and `moe`,
    of which `upto` is the last tap that is wanted.

    Raises ValueError for an op that the oracle has no taps of.
    """
    if problem.case.op not in _TRACES:
        raise ValueError(f"reference: the oracle has no taps of {problem.case.op!r}")
    if problem.sample is not None:
        rows = problem.sample if rows is None else problem.sample[rows]
    staged = upto is not None and problem.case.op in ("experts", "moe")
    stage = {"upto": upto} if staged else {}
    return Trace(_TRACES[problem.case.op](problem, rows, given or {}, **stage))


def _route(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    logits, token_ids = problem.inputs["logits"], problem.inputs.get("token_ids")
    if rows is not None:
        logits = logits[rows]
        token_ids = None if token_ids is None else token_ids[rows]
    routed = route(
        logits, problem.layer, problem.params, problem.numerics, token_ids=token_ids
    )
    ids = given.get("ids")
    weights = routed.weights if ids is None else routed.weights_for(ids)
    chosen = Tap(routed.ids if ids is None else ids, admissible=routed.admissible)
    return {"scores": routed.scores, "ids": chosen, "weights": weights}


def _moe(
    problem: Problem, rows: Rows, given: Given, upto: str = "out"
) -> dict[str, Tap]:
    found = moe.trace(
        problem.layer,
        problem.params,
        problem.inputs["x"],
        problem.inputs["logits"],
        problem.numerics,
        given=given,
        token_ids=problem.inputs.get("token_ids"),
        rows=rows,
        upto=upto,
        **_rank(problem),
    )
    return dict(found)


def _rank(problem: Problem) -> dict[str, Any]:
    """Which experts live here; what is replicated belongs to the first rank."""
    local = problem.inputs.get("local")
    return {"local": local, "replicated": local is None or local[0] == 0}


def _experts(
    problem: Problem, rows: Rows, given: Given, upto: str = "routed"
) -> dict[str, Tap]:
    inputs = {name: problem.inputs[name] for name in ("ids", "weights")}
    if rows is not None and not spans_rows(problem.layer, problem.params):
        inputs = {name: value[rows] for name, value in inputs.items()}
    stages = Stages(
        problem.layer, problem.params, problem.inputs["x"], None, problem.numerics,
        {**given, **inputs}, rows=rows, **_rank(problem),
    )  # fmt: skip
    # What comes after the sum is no part of the op.
    return dict(moe.reached(stages, "routed" if upto in ("shared", "out") else upto))


def _permute(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    chosen, experts = problem.inputs["ids"], problem.layer.experts
    chosen = torch.where(chosen >= experts, -1, chosen)
    found = permute(chosen, experts, local=problem.inputs.get("local"))
    return {"rows": Tap(found.slots), "offsets": Tap(found.offsets)}


def _quantize(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    x, form = problem.inputs["x"], problem.inputs["format"]
    return _bytes(quantize(x, form), x, problem.numerics)


def _grouped_quantize(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    x, offsets = problem.inputs["x"], problem.inputs["offsets"]
    used = x[: int(offsets[-1])]
    blocks = grouped_quantize(used, offsets, problem.inputs["format"])
    edges = tuple(offsets.tolist())
    return _bytes(blocks, used, problem.numerics, edges)


def _bytes(
    blocks: Blocks, x: torch.Tensor, numerics: Numerics, edges: tuple[int, ...] = ()
) -> dict[str, Tap]:
    """The one result, or what approximate divisions may make of it."""
    slack = division_slack(blocks.format, numerics)
    source = None
    if slack:
        source = Quantised(bounds.exactly(x), blocks.format, None, slack, edges)
    found = {
        "codes": Tap(blocks.codes, quantised=source),
        "scales": Tap(blocks.scales, quantised=source),
    }
    whole = blocks.global_scale
    if whole is not None:
        value = whole.double()
        found["global_scale"] = Tap(value, slack * value if slack else None)
    return found


def _dequantize(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    return {"values": Tap(dequantize(problem.inputs["blocks"]))}


def _grouped_gemm(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    inputs, numerics = problem.inputs, problem.numerics
    x = bounds.exactly(inputs["x"])
    y = grouped_gemm(x, inputs["weights"], inputs["offsets"], numerics)
    return {"y": y}


def _activate(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    numerics, params = problem.numerics, problem.params
    owner = problem.inputs["expert"]
    overrides: dict[str, Any] = {
        name: None if values is None else values[owner]
        for name in ("alpha", "beta", "limit")
        for values in [getattr(params, name)]
    }
    gate_up = bounds.exactly(problem.inputs["gate_up"])
    hidden = activate(gate_up, problem.layer.activation, numerics, **overrides)
    return {"intermediate": bounds.rounded(hidden, numerics.intermediate, numerics)}


def _activate_quantize(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    form, scale = problem.inputs["format"], problem.params.intermediate_scale
    hidden = _activate(problem, rows, given)["intermediate"]
    _, found = operand("", hidden, form, scale, {}, problem.numerics)
    return {name.removeprefix("_"): tap for name, tap in found.items()}


def _combine(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    inputs = problem.inputs
    weights = inputs["weights"]
    slots = inputs["rows"]
    inverse = torch.full((weights.numel(),), -1, device=slots.device)
    inverse[slots] = torch.arange(len(slots), device=slots.device)
    # Combine looks at the slots and their inverse alone.
    none = slots[:0]
    permutation = Permutation(slots, none, none, inverse.reshape(weights.shape))
    total = combine(
        bounds.exactly(inputs["down"]),
        permutation,
        bounds.exactly(weights),
        problem.numerics,
    )
    return {"routed": total}


def _omni_route(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    inputs, kept = problem.inputs, problem.numerics.router
    # Sums are kept in no less than the logits' type.
    sum_type = kept if kept == problem.layer.dtype else "fp32"
    found = omni_route(
        inputs["logits_x"], inputs["logits_y"], problem.layer.top_k, sum_type=sum_type
    )
    return {"scores": Tap(found.scores), "ids": Tap(found.ids)}


def _omni_backward(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    inputs = problem.inputs
    d_x, d_y = omni_route_backward(
        inputs["d_scores"], inputs["ids"], inputs["n"], problem.numerics
    )
    return {"d_x": d_x, "d_y": d_y}


def _omni_experts(problem: Problem, rows: Rows, given: Given) -> dict[str, Tap]:
    inputs = problem.inputs
    y = omni_experts(
        inputs["x"], inputs["ids"], inputs["weights"], inputs["up"], inputs["down"],
        problem.numerics,
    )  # fmt: skip
    return {"y": y}


_TRACES: dict[str, Callable[..., dict[str, Tap]]] = {
    "route": _route,
    "moe": _moe,
    "experts": _experts,
    "permute": _permute,
    "quantize": _quantize,
    "grouped_quantize": _grouped_quantize,
    "dequantize": _dequantize,
    "grouped_gemm": _grouped_gemm,
    "activate": _activate,
    "activate+quantize": _activate_quantize,
    "combine": _combine,
    "omni_route": _omni_route,
    "omni_route_backward": _omni_backward,
    "omni_experts": _omni_experts,
}
