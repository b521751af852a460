"""Which experts are chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from oracle.formats import round_to
from oracle.spec import Layer
from oracle.trace import Tap
from refmoe.diagnose import changes
from refmoe.diagnose.hypothesis import Change, Hypothesis, Place
from refmoe.problem import Problem

_OPS = ("route", "moe")


def _hypothesis(name: str, about: str, change: Change) -> Hypothesis:
    return Hypothesis(name, about, change, ops=_OPS)


def _other_fill(layer: Layer) -> Layer:
    fill: Any = "zero" if layer.routing.masked_fill == "-inf" else "-inf"
    if layer.routing.groups == 1:
        return layer
    return replace(layer, routing=replace(layer.routing, masked_fill=fill))


def _other_strength(layer: Layer) -> Layer:
    rule: Any = "max" if layer.routing.group_score == "top2" else "top2"
    if layer.routing.groups == 1:
        return layer
    return replace(layer, routing=replace(layer.routing, group_score=rule))


def _other_order(layer: Layer) -> Layer:
    before = layer.routing.order == "score_then_topk"
    order: Any = "topk_then_score" if before else "score_then_topk"
    return replace(layer, routing=replace(layer.routing, order=order))


def _some_experts_only(count: int | None) -> Change:
    """The experts behind `count` (None: the last whole four) are never chosen."""

    def changed(problem: Problem) -> Problem | None:
        layer, logits = problem.layer, problem.inputs["logits"]
        kept = layer.routed_choices // 4 * 4 if count is None else count
        if not layer.top_k <= kept < layer.routed_choices:
            return None
        if layer.routing.groups > 1 or layer.routing.method != "topk":
            return None
        far = logits.clone()
        far[:, kept : layer.routed_choices] = -torch.inf
        bias = problem.params.router_bias
        if bias is not None and layer.routing.bias == "selection":
            # A score of 0 with a bias can still win.
            bias = bias.clone()
            bias[kept:] = -torch.inf
        params = replace(problem.params, router_bias=bias)
        return problem.but(inputs={**problem.inputs, "logits": far}, params=params)

    return changed


def _first_bytes(bias: torch.Tensor) -> torch.Tensor:
    half = bias.contiguous().view(torch.bfloat16)[..., : bias.shape[-1]]
    return half.to(bias.dtype)


def _fp16_bits(problem: Problem) -> Problem | None:
    logits = problem.inputs["logits"]
    if logits.dtype is not torch.bfloat16:
        return None
    wrong = logits.contiguous().view(torch.float16).float()
    return problem.but(inputs={**problem.inputs, "logits": wrong})


def _key(place: Place) -> torch.Tensor | None:
    """What experts are chosen by, where no groups take part."""
    routing, scores = place.layer.routing, place.taps["scores"].value
    if routing.groups > 1 or routing.method != "topk":
        return None
    key = scores[:, : place.layer.routed_choices]
    if routing.bias == "selection" and place.params.router_bias is not None:
        key = key + place.params.router_bias.double()
    return key


def _from_zero(place: Place, tap: Tap) -> Tap:
    """Slots whose key is not above 0 fall to expert 0."""
    key, ids = _key(place), tap.value.long()
    return tap if key is None else Tap(torch.where(key.gather(1, ids) > 0, ids, 0))


def _by_coarse_keys(place: Place, tap: Tap) -> Tap:
    """The choice by keys rounded to bf16, the lowest index first among equals."""
    key = _key(place)
    if key is None:
        return tap
    order = round_to(key, "bf16").argsort(dim=1, descending=True, stable=True)
    return Tap(order[:, : tap.value.shape[1]])


HYPOTHESES = (
    _hypothesis(
        "selection_bias_missing",
        "the selection bias is left out",
        changes.routing(bias="none"),
    ),
    _hypothesis(
        "groups_ignored",
        "experts of all groups take part",
        changes.routing(groups=1, top_groups=1),
    ),
    Hypothesis(
        "search_from_zero",
        "the search for the largest key starts from 0 at expert 0",
        alter={"ids": _from_zero},
        ops=_OPS,
    ),
    Hypothesis(
        "keys_in_bf16",
        "experts are chosen by keys rounded to bf16",
        alter={"ids": _by_coarse_keys},
        ops=_OPS,
    ),
    _hypothesis(
        "masked_fill",
        "experts of left-out groups get the other key (0 or -inf)",
        changes.layer(_other_fill),
    ),
    _hypothesis(
        "group_strength",
        "groups are compared by the other rule (best expert, or best two)",
        changes.layer(_other_strength),
    ),
    _hypothesis(
        "highest_of_equals",
        "among equal keys the highest index is taken",
        changes.numerics(ties="highest"),
    ),
    _hypothesis(
        "score_order",
        "scores are taken on the other side of the choice (all experts, or the chosen)",
        changes.layer(_other_order),
    ),
    _hypothesis(
        "softcap_missing", "logits are not capped", changes.routing(softcap=None)
    ),
    _hypothesis(
        "logits_scale_missing",
        "logits are not scaled",
        changes.routing(logits_scale=1.0),
    ),
    _hypothesis(
        "router_bias_in_bf16",
        "the router's bias is rounded to bf16",
        changes.params("router_bias")(lambda bias: bias.bfloat16().to(bias.dtype)),
    ),
    _hypothesis(
        "router_bias_bits",
        "the bytes of the router's bias are read as bf16",
        changes.params("router_bias")(_first_bytes),
    ),
    _hypothesis("logits_bits", "the bytes of bf16 logits are read as fp16", _fp16_bits),
    _hypothesis(
        "logits_in_bf16",
        "logits are rounded to bf16 before anything else",
        changes.inputs("logits")(lambda logits: logits.bfloat16().to(logits.dtype)),
    ),
    _hypothesis(
        "last_experts_ignored",
        "experts behind the last whole group of four are never chosen",
        _some_experts_only(None),
    ),
    _hypothesis(
        "experts_from_256_on_ignored",
        "experts from 256 on are never chosen",
        _some_experts_only(256),
    ),
    _hypothesis(
        "token_id_masked",
        "the table is indexed by the low six bits of the token id",
        changes.inputs("token_ids")(lambda ids: ids & 63),
    ),
)
