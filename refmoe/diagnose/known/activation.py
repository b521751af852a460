"""What happens between the two GEMMs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from oracle.params import Blocks
from oracle.spec import Layer
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Change, Hypothesis, Place
from refmoe.diagnose.known.gate_up import before_activation
from refmoe.problem import Problem

_OPS = ("activate", "experts", "moe")


def _hypothesis(name: str, about: str, change: Change) -> Hypothesis:
    return Hypothesis(name, about, change, ops=_OPS)


def _kind(kind: str, *instead_of: str) -> Change:
    def other(layer: Layer) -> Layer:
        if layer.activation.kind not in instead_of:
            return layer
        own: Any = replace(layer.activation, kind=kind)  # type: ignore[arg-type]
        return replace(layer, activation=own)

    return changes.layer(other)


def _other_clamp(layer: Layer) -> Layer:
    clamp: Any = "after" if layer.activation.clamp == "before" else "before"
    return replace(layer, activation=replace(layer.activation, clamp=clamp))


def _constant(place: Place, name: str) -> torch.Tensor:
    """The layer's limit or beta, or each row's [R, 1] where experts have their own."""
    own = getattr(place.problem.params, name)
    if own is None:
        return torch.tensor([getattr(place.layer.activation, name) or 0.0]).double()
    counts = place.offsets.diff()
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    rows: torch.Tensor = own.double()[place.inputs.get("expert", owner).long()]
    return rows[:, None]


def _limit(place: Place) -> torch.Tensor:
    """The limit as `_constant` has it, inf where there is none."""
    limit = _constant(place, "limit")
    return torch.where(limit > 0, limit, torch.inf)


def _halves(
    change: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[Any, Any]],
) -> Callable[[Place, Tap], Tap]:
    """An alteration of gate and up from what `change` makes of them and the limit."""

    def altered(place: Place, tap: Tap) -> Tap:
        gate, up = tap.value.chunk(2, -1)
        return replace(tap, value=torch.cat(change(gate, up, _limit(place)), -1))

    return altered


def _clamped_with_beta(place: Place, tap: Tap) -> Tap:
    """Up such that up + beta is what beta added first, then clamped, gives."""
    limit, beta = _limit(place), _constant(place, "beta")
    gate, up = tap.value.chunk(2, -1)
    up = (up + beta).clamp(-limit, limit) - beta
    return replace(tap, value=torch.cat((gate.clamp(max=limit), up), -1))


def _where_beta_counts(problem: Problem) -> Problem | None:
    own = problem.params.beta
    if not (problem.layer.activation.beta if own is None else own.any()):
        return None
    return changes.activation(limit=None)(problem)


def _to_zero(place: Place, tap: Tap) -> Tap:
    if place.layer.activation.limit != 0.0:
        return tap
    gate, up = tap.value.chunk(2, -1)
    return replace(tap, value=torch.cat((gate.clamp(max=0.0), up * 0.0), -1))


def _always_gated(problem: Problem) -> Problem | None:
    """Ungated experts through SwiGLU, their one half as gate and up."""
    layer = problem.layer
    if layer.activation.gated:
        return None
    gated = replace(layer, activation=replace(layer.activation, kind="swiglu"))
    given = problem.inputs.get("gate_up")
    if given is not None:
        inputs = {**problem.inputs, "gate_up": torch.cat((given, given), -1)}
        return problem.but(layer=gated, inputs=inputs)
    weight, bias = problem.params.gate_up, problem.params.gate_up_bias
    if isinstance(weight, Blocks):
        both: Any = replace(
            weight,
            codes=torch.cat((weight.codes, weight.codes), -2),
            scales=torch.cat((weight.scales, weight.scales), -2),
        )
    elif isinstance(weight, torch.Tensor):
        both = torch.cat((weight, weight), -2)
    else:
        return None
    bias = None if bias is None else torch.cat((bias, bias), -1)
    params = replace(problem.params, gate_up=both, gate_up_bias=bias)
    return problem.but(layer=gated, params=params)


HYPOTHESES = (
    _hypothesis("no_clamp", "the limit is left out", changes.activation(limit=None)),
    _hypothesis(
        "beta_dropped", "up is taken without beta", changes.activation(beta=0.0)
    ),
    _hypothesis("alpha_dropped", "alpha is taken as 1", changes.activation(alpha=1.0)),
    _hypothesis(
        "alpha_of_gpt_oss", "alpha is taken as 1.702", changes.activation(alpha=1.702)
    ),
    _hypothesis("beta_of_1", "beta is taken as 1", changes.activation(beta=1.0)),
    _hypothesis(
        "clamp_side",
        "the gate is clamped on the other side of its curve",
        changes.layer(_other_clamp),
    ),
    before_activation(
        "gate_clamped_from_below",
        "the gate is clamped from below too",
        _halves(lambda gate, up, limit: (gate.clamp(min=-limit), up)),
    ),
    before_activation(
        "up_clamped_from_above_only",
        "up is clamped from above alone",
        _halves(lambda gate, up, limit: (gate.clamp(max=limit), up.clamp(max=limit))),
        changes.activation(limit=None),
    ),
    before_activation(
        "up_not_clamped",
        "the gate is clamped, up is not",
        _halves(lambda gate, up, limit: (gate.clamp(max=limit), up)),
        changes.activation(limit=None),
    ),
    before_activation(
        "gate_not_clamped",
        "up is clamped, the gate is not",
        _halves(lambda gate, up, limit: (gate, up.clamp(-limit, limit))),
        changes.activation(limit=None),
    ),
    before_activation(
        "clamps_exchanged",
        "up is clamped from above alone, the gate on both sides",
        _halves(
            lambda gate, up, limit: (gate.clamp(-limit, limit), up.clamp(max=limit))
        ),
        changes.activation(limit=None),
    ),
    before_activation(
        "beta_before_the_clamp",
        "beta is added to up before the clamp",
        _clamped_with_beta,
        _where_beta_counts,
    ),
    before_activation(
        "nan_clamped",
        "a NaN is clamped to the limit",
        _halves(
            lambda gate, up, limit: (
                torch.where(gate.isnan(), limit, gate),
                torch.where(up.isnan(), limit, up),
            )
        ),
    ),
    _hypothesis(
        "constants_of_the_layer",
        "alpha, beta and limit per expert are ignored",
        changes.params("alpha", "beta", "limit")(lambda values: None),
    ),
    _hypothesis(
        "limit_of_the_layer",
        "limits per expert are ignored",
        changes.params("limit")(lambda values: None),
    ),
    before_activation(
        "limit_of_zero_clamps",
        "a limit of 0, which means none, clamps everything to 0",
        _to_zero,
    ),
    _hypothesis(
        "gelu_by_erf", "GELU by erf in place of tanh", _kind("geglu_erf", "geglu_tanh")
    ),
    _hypothesis(
        "gelu_by_tanh", "GELU by tanh in place of erf", _kind("geglu_tanh", "geglu_erf")
    ),
    _hypothesis(
        "silu_for_gelu",
        "SiLU in place of GELU",
        _kind("swiglu", "geglu_tanh", "geglu_erf", "softcap"),
    ),
    _hypothesis(
        "gelu_for_silu", "GELU in place of SiLU", _kind("geglu_tanh", "swiglu")
    ),
    Hypothesis(
        "always_gated",
        "ungated experts go through SwiGLU, their one half as gate and up",
        _always_gated,
        ops=_OPS,
    ),
)
