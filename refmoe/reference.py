"""What the oracle says about a problem: op -> taps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from oracle import bounds, moe
from oracle.activation import activate
from oracle.blocks import dequantize, grouped_quantize, quantize
from oracle.experts import combine, grouped_gemm
from oracle.omni import omni_experts, omni_route, omni_route_backward
from oracle.params import Blocks
from oracle.permutation import Permutation, permute
from oracle.routing import route
from oracle.stages import Stages
from oracle.trace import TAPS, Tap, Trace
from refmoe.problem import Problem

Rows = torch.Tensor | None


def trace(problem: Problem, *, rows: Rows = None, ids: Rows = None) -> Trace:
    """The taps of the problem's op, in the arithmetic that the problem declares.

    Shapes: rows i64[S], tokens to compute (None: all); ids i64[S, k], a selection that
    replaces the oracle's for those tokens. Both concern `route` and `moe`.

    Raises ValueError for an op that the oracle has no taps of.
    """
    if problem.case.op not in _TRACES:
        raise ValueError(f"reference: the oracle has no taps of {problem.case.op!r}")
    return Trace(_TRACES[problem.case.op](problem, rows, ids))


def _route(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    logits, token_ids = problem.inputs["logits"], problem.inputs.get("token_ids")
    if rows is not None:
        logits = logits[rows]
        token_ids = None if token_ids is None else token_ids[rows]
    routed = route(
        logits, problem.layer, problem.params, problem.numerics, token_ids=token_ids
    )
    weights = routed.weights if ids is None else routed.weights_for(ids)
    chosen = Tap(routed.ids if ids is None else ids, admissible=routed.admissible)
    return {"scores": routed.scores, "ids": chosen, "weights": weights}


def _moe(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    found = moe.trace(
        problem.layer,
        problem.params,
        problem.inputs["x"],
        problem.inputs["logits"],
        problem.numerics,
        given=None if ids is None else {"ids": ids},
        token_ids=problem.inputs.get("token_ids"),
        rows=rows,
    )
    return dict(found)


def _experts(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    given = {name: problem.inputs[name] for name in ("ids", "weights")}
    x, numerics = problem.inputs["x"], problem.numerics
    stages = Stages(problem.layer, problem.params, x, None, numerics, given)
    routed = stages.routed()
    taps = {name: stages.taps[name] for name in TAPS if name in stages.taps}
    return {**taps, "routed": _output(problem, routed)}


def _output(problem: Problem, tap: Tap) -> Tap:
    point = problem.numerics.output or problem.layer.dtype
    return bounds.rounded(tap, point, problem.numerics)


def _permute(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    chosen, experts = problem.inputs["ids"], problem.layer.experts
    found = permute(torch.where(chosen >= experts, -1, chosen), experts)
    return {"rows": Tap(found.slots), "offsets": Tap(found.offsets)}


def _quantize(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    return _bytes(quantize(problem.inputs["x"], problem.inputs["format"]))


def _grouped_quantize(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    inputs = problem.inputs
    return _bytes(grouped_quantize(inputs["x"], inputs["offsets"], inputs["format"]))


def _bytes(blocks: Blocks) -> dict[str, Tap]:
    found = {"codes": Tap(blocks.codes), "scales": Tap(blocks.scales)}
    if blocks.global_scale is not None:
        found["global_scale"] = Tap(blocks.global_scale)
    return found


def _dequantize(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    return {"values": Tap(dequantize(problem.inputs["blocks"]))}


def _grouped_gemm(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    inputs, numerics = problem.inputs, problem.numerics
    x = bounds.exactly(inputs["x"])
    y = grouped_gemm(x, inputs["weights"], inputs["offsets"], numerics)
    return {"y": _output(problem, y)}


def _activate(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
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


def _combine(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
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
    return {"routed": _output(problem, total)}


def _omni_route(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    inputs = problem.inputs
    found = omni_route(inputs["logits_x"], inputs["logits_y"], problem.layer.top_k)
    return {"scores": Tap(found.scores), "ids": Tap(found.ids)}


def _omni_backward(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    inputs = problem.inputs
    d_x, d_y = omni_route_backward(
        inputs["d_scores"], inputs["ids"], inputs["n"], problem.numerics
    )
    return {"d_x": d_x, "d_y": d_y}


def _omni_experts(problem: Problem, rows: Rows, ids: Rows) -> dict[str, Tap]:
    inputs = problem.inputs
    y = omni_experts(
        inputs["x"], inputs["ids"], inputs["weights"], inputs["up"], inputs["down"],
        problem.numerics,
    )  # fmt: skip
    return {"y": y}


_TRACES: dict[str, Callable[[Problem, Rows, Rows], dict[str, Tap]]] = {
    "route": _route,
    "moe": _moe,
    "experts": _experts,
    "permute": _permute,
    "quantize": _quantize,
    "grouped_quantize": _grouped_quantize,
    "dequantize": _dequantize,
    "grouped_gemm": _grouped_gemm,
    "activate": _activate,
    "combine": _combine,
    "omni_route": _omni_route,
    "omni_route_backward": _omni_backward,
    "omni_experts": _omni_experts,
}
