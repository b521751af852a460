"""Where the routing weight goes."""

from __future__ import annotations

from dataclasses import replace

import torch

from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Change, Hypothesis, Place
from refmoe.problem import Problem

_EXPERTS = ("experts", "moe")


def _to_layer(**fields: str) -> Change:
    return changes.layer(lambda layer: replace(layer, **fields))  # type: ignore[arg-type]


def _unweighted(problem: Problem) -> Problem | None:
    """The experts' op with every weight 1."""
    if problem.case.op != "experts":
        return None
    ones = torch.ones_like(problem.inputs["weights"])
    return problem.but(inputs={**problem.inputs, "weights": ones})


def _weighted_input(problem: Problem) -> Problem:
    layer = replace(problem.layer, weight_on="input")
    return problem.but(layer=layer)


def _weighted_again(place: Place, tap: Tap) -> Tap:
    own = place.taps["weights"].value.reshape(-1)[place.slots][:, None]
    return tap.map(lambda t: t * own)


def _without_last_choices(value: torch.Tensor) -> torch.Tensor:
    kept = 1 << (value.shape[1].bit_length() - 1)
    return torch.cat((value[:, :kept], torch.zeros_like(value[:, kept:])), 1)


HYPOTHESES = (
    Hypothesis(
        "unweighted", "routing weights are left out", _unweighted, ops=("experts",)
    ),
    Hypothesis(
        "weight_on_input",
        "the routing weight multiplies the experts' input",
        _to_layer(weight_on="input"),
        ops=_EXPERTS,
    ),
    Hypothesis(
        "weight_on_output",
        "the routing weight multiplies the experts' output",
        _to_layer(weight_on="output"),
        ops=_EXPERTS,
    ),
    Hypothesis(
        "weight_on_intermediate",
        "the routing weight multiplies the intermediate",
        _to_layer(weight_on="intermediate"),
        ops=_EXPERTS,
    ),
    Hypothesis(
        "weight_on_both_sides",
        "the routing weight multiplies the experts' input and their output",
        _weighted_input,
        {"down": _weighted_again},
        _EXPERTS,
    ),
    Hypothesis(
        "weighted_twice",
        "the routing weight is applied twice",
        alter={"down": _weighted_again},
        ops=_EXPERTS,
    ),
    Hypothesis(
        "choices_behind_a_power_of_two",
        "choices behind the last power of two are not added",
        changes.inputs("weights")(_without_last_choices),
        ops=("combine", "experts"),
    ),
)
