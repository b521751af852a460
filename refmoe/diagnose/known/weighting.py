"""How chosen experts are weighted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from oracle.spec import Layer
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Alteration, Change, Hypothesis, Place
from refmoe.problem import Problem

_OPS = ("route", "moe")


def _epsilon_missing(layer: Layer) -> Layer:
    return replace(layer, routing=replace(layer.routing, epsilon=0.0))


def _scale_twice(layer: Layer) -> Layer:
    scale = layer.routing.scale**2
    return replace(layer, routing=replace(layer.routing, scale=scale))


def weights(change: Callable[[Place, torch.Tensor], torch.Tensor | None]) -> Alteration:
    """Other weights [T, k], as uncertain as those that they replace."""

    def altered(place: Place, tap: Tap) -> Tap:
        value = change(place, tap.value)
        if value is None:
            return tap
        return moved(tap, value)

    return altered


def moved(tap: Tap, value: torch.Tensor) -> Tap:
    """The tap at another value, with its relative reach and a rounding to fp32."""
    if not value.numel():
        return tap
    worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst
    relative = (worst / tap.value.abs()).nan_to_num(0.0, 0.0, 0.0).amax().clamp(max=1.0)
    reach = torch.maximum(worst, value.abs() * (relative + 2.0**-23))
    return Tap(value, reach, None, admissible=tap.admissible)


def _single_as_it_is(problem: Problem) -> Problem | None:
    if problem.layer.top_k > 1:
        return None
    return changes.routing(renormalize="none")(problem)


def _plain_scores(place: Place) -> torch.Tensor | None:
    """Scores as fp32 gives them when the formula is written down as it stands."""
    routing = place.layer.routing
    if routing.softcap is not None or routing.logits_scale != 1.0:
        return None
    power: torch.Tensor = place.inputs["logits"].float().exp()
    if routing.score == "sqrtsoftplus":
        return torch.log(1.0 + power).sqrt().double()
    if routing.score == "softmax" and routing.order == "score_then_topk":
        return (power / power.sum(1, keepdim=True)).double()
    return None


def _naive(place: Place, value: torch.Tensor) -> torch.Tensor | None:
    scores = _plain_scores(place)
    return None if scores is None else _weighed(place, scores)


def _naive_choice(place: Place, tap: Tap) -> Tap:
    """The choice by such scores, where no groups take part."""
    routing, scores = place.layer.routing, _plain_scores(place)
    if scores is None or routing.groups > 1 or routing.method != "topk":
        return tap
    key = scores[:, : place.layer.routed_choices]
    if routing.bias == "selection" and place.params.router_bias is not None:
        key = key + place.params.router_bias.double()
    order = torch.argsort(key, dim=1, descending=True, stable=True)
    return Tap(order[:, : place.layer.top_k])


def _weighed(place: Place, scores: torch.Tensor) -> torch.Tensor:
    """The weights of the chosen experts from scores [T, E]."""
    routing = place.layer.routing
    chosen = scores.gather(1, place.taps["ids"].value.long())
    if routing.renormalize != "none":
        chosen = chosen / (chosen.sum(1, keepdim=True) + routing.epsilon)
    return chosen * (routing.scale if routing.scale_on == "weights" else 1.0)


def _leaked(place: Place, value: torch.Tensor) -> torch.Tensor | None:
    """Weights from scores with the selection bias added."""
    routing, bias = place.layer.routing, place.params.router_bias
    if bias is None or routing.bias != "selection" or "scores" not in place.taps:
        return None
    scores = place.taps["scores"].value
    return _weighed(place, scores[:, : len(bias)] + bias.double())


def _of_first_experts(place: Place, value: torch.Tensor) -> torch.Tensor | None:
    """Weights from the first k columns of the scores."""
    routing = place.layer.routing
    if "scores" not in place.taps:
        return None
    chosen = place.taps["scores"].value[:, : value.shape[1]]
    if routing.order == "topk_then_score":
        return None
    if routing.renormalize != "none":
        chosen = chosen / (chosen.sum(1, keepdim=True) + routing.epsilon)
    scale = routing.scale if routing.scale_on == "weights" else 1.0
    return chosen * scale


def _of_the_token_before(place: Place, value: torch.Tensor) -> torch.Tensor:
    ids = place.taps["ids"].value
    again = (ids[1:] == ids[:-1]).all(1, keepdim=True)
    return torch.cat((value[:1], torch.where(again, value[:-1], value[1:])))


def _by_slot(place: Place, value: torch.Tensor) -> torch.Tensor | None:
    scale = place.params.per_expert_scale
    if scale is None:
        return None
    ids = place.taps["ids"].value.long()
    return value / scale.double()[ids] * scale.double()[: value.shape[1]]


def _alone(place: Place, value: torch.Tensor) -> torch.Tensor | None:
    """Routed weights normalised without the shared experts' scores."""
    routing = place.layer.routing
    if not routing.shared_logits or routing.renormalize == "none":
        return None
    scale = routing.scale if routing.scale_on == "weights" else 1.0
    return value / value.sum(1, keepdim=True) * scale


def _route(name: str, about: str, change: Change) -> Hypothesis:
    return Hypothesis(name, about, change, ops=_OPS)


def _altered(
    name: str,
    about: str,
    change: Callable[[Place, torch.Tensor], torch.Tensor | None],
    ops: tuple[str, ...] = _OPS,
) -> Hypothesis:
    return Hypothesis(name, about, alter={"weights": weights(change)}, ops=ops)


HYPOTHESES = (
    _route(
        "no_renormalisation",
        "weights are not renormalised",
        changes.routing(renormalize="none"),
    ),
    _route("scale_missing", "the routed scale is left out", changes.routing(scale=1.0)),
    _route(
        "scale_twice", "the routed scale is applied twice", changes.layer(_scale_twice)
    ),
    _altered(
        "bias_in_weights", "weights are scores with the selection bias added", _leaked
    ),
    _altered(
        "rising_weights",
        "ids fall by key, their weights stand in the reverse order",
        lambda place, value: value.flip(1) if value.shape[1] > 1 else None,
    ),
    _altered(
        "weights_of_the_first_experts",
        "weights are the scores of the first k experts",
        _of_first_experts,
    ),
    _altered(
        "expert_0_unweighted",
        "slots of expert 0 weigh nothing (an id taken for a mask, say)",
        lambda place, value: torch.where(place.taps["ids"].value <= 0, 0.0, value),
    ),
    _altered(
        "weights_of_the_token_before",
        "a token that chose as the one before it gets that one's weights",
        _of_the_token_before,
    ),
    _altered(
        "scale_of_the_slot", "the scale per expert is indexed by the slot", _by_slot
    ),
    _route(
        "softmax_of_the_chosen",
        "the score runs over the chosen logits alone",
        changes.routing(order="topk_then_score"),
    ),
    _route(
        "raw_logits",
        "the logits themselves are the weights",
        changes.routing(score="identity"),
    ),
    _route(
        "epsilon_missing",
        "the sum is renormalised without its epsilon",
        changes.layer(_epsilon_missing),
    ),
    _route(
        "renormalised",
        "weights are renormalised, which the layer does not do",
        changes.routing(renormalize="sum"),
    ),
    _route(
        "single_choice_not_renormalised",
        "with a single choice weights are not renormalised",
        _single_as_it_is,
    ),
    Hypothesis(
        "naive_score",
        "scores overflow or cancel: e^l of any logit, or log(1 + e^l)",
        alter={"ids": _naive_choice, "weights": weights(_naive)},
        ops=_OPS,
    ),
    _altered(
        "shared_logits_left_out",
        "the shared experts' scores do not join the sum",
        _alone,
    ),
)
