"""Ops whose results have a row for each row of their inputs: which inputs those are."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.params import Blocks
from oracle.spec import BlockFormat, Layer
from refmoe.case import Case, format_of
from refmoe.problem import Problem

#: Inputs whose first axis is that of the results.
ALIGNED = {
    "route": ("logits", "token_ids"),
    "quantize": ("x",),
    "dequantize": ("blocks",),
    "activate": ("gate_up", "expert"),
    "experts": ("x", "ids", "weights"),
    "moe": ("x", "logits", "token_ids"),
    "omni_route": ("logits_x", "logits_y"),
    "omni_route_backward": ("d_scores", "ids"),
    "omni_experts": ("x", "ids", "weights"),
}


def count(problem: Problem) -> int:
    """How many rows the inputs have."""
    return int(problem.inputs[ALIGNED[problem.case.op][0]].shape[0])


def taken(problem: Problem, rows: torch.Tensor) -> Problem:
    """The problem with those rows of its inputs alone, in that order."""
    inputs = dict(problem.inputs)
    for name in ALIGNED[problem.case.op]:
        if name in inputs:
            inputs[name] = _taken(inputs[name], rows)
    case = problem.case
    if case.op != "activate":
        # Elsewhere a row is a token.
        case = case.but(T=len(rows))
    return problem.but(case=case, inputs=inputs)


def _taken(value: torch.Tensor | Blocks, rows: torch.Tensor) -> torch.Tensor | Blocks:
    if isinstance(value, torch.Tensor):
        return value[rows]
    return replace(value, codes=value.codes[rows], scales=value.scales[rows])


def entangled(case: Case) -> str | None:
    """Why a row's result depends on the other rows; None where it does not."""
    if case.T < 2:
        return "one row has no company"
    forms: tuple[str | BlockFormat, ...] = ()
    if case.op in ("quantize", "dequantize"):
        forms = (format_of(case.format or ""),)
    elif case.op in ("experts", "moe"):
        forms = (case.layer.activations, case.layer.requantize)
    for form in forms:
        if not isinstance(form, str) and (form.block[0] != 1 or form.global_scale):
            return f"rows share scales in {form.name}"
    return None


def formats(layer: Layer) -> tuple[BlockFormat, ...]:
    """The block formats of a layer."""
    shared = None if layer.shared is None else layer.shared.weights
    forms = (layer.weights, layer.activations, layer.requantize, shared)
    return tuple(form for form in forms if isinstance(form, BlockFormat))
