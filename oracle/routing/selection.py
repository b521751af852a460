"""From scores to ids: keys, groups, and what else may be selected."""

from __future__ import annotations

import torch

from oracle import bounds
from oracle.numerics import Numerics
from oracle.routing.admissible import Admissible
from oracle.routing.contest import Contest
from oracle.routing.logits import plus_bias, transformed, wider
from oracle.routing.order import descending, first_equal, sortable
from oracle.routing.scores import Arithmetic, radius, with_radius
from oracle.spec import Layer, Routing
from oracle.trace import Tap


def select(
    logits: torch.Tensor, bias: torch.Tensor | None, layer: Layer, numerics: Numerics
) -> Admissible:
    """The top-k of the keys and every other selection within their radius.

    Shapes: logits f[T, N], the columns that can be chosen; bias f[N] or None

    Keys know no results that are exact in one type only: 1 - 2^-30 and 1 are one
    sigmoid in fp32, but a router may as well compare the logits, which sigmoid, softmax
    and softcap do not reorder.
    """
    routing, arithmetic = layer.routing, Arithmetic(numerics).unsettled
    given = bounds.rounded(bounds.exactly(logits), numerics.logits, numerics).value
    labels = first_equal(sortable(given))
    if bias is not None:
        own = sortable(bias.to(logits.device, torch.float64))
        labels = labels * len(own) + first_equal(own[None])
    key = _keys(
        transformed(logits, routing, bias, arithmetic), bias, routing, arithmetic
    )
    experts = Contest.of(key.value, radius(key), labels, layer.top_k, numerics.ties)
    if routing.groups == routing.top_groups:
        return Admissible(experts.winners, experts)
    groups = _groups(experts, bias, routing, arithmetic)
    fill = 0.0 if routing.masked_fill == "zero" else -torch.inf
    return Admissible.of_groups(experts, groups, fill)


def _keys(
    logits: Tap, bias: torch.Tensor | None, routing: Routing, arithmetic: Arithmetic
) -> Tap:
    """What is compared: logits or scores, with a selection bias.

    Without a bias the sum of a softmax scales all keys alike and does not reorder them:
    it counts as exact.
    """
    if compares_logits(routing):
        key = logits
    elif _scale_free(routing, arithmetic):
        terms = arithmetic.exponentials(logits)
        key = arithmetic.divide(terms, Tap(arithmetic.total(terms).value))
    else:
        key = arithmetic.point(arithmetic.score(logits, routing.score))
    if bias is not None and routing.bias == "selection":
        type = wider(arithmetic.type, bias.dtype)
        key = plus_bias(key, bias, type, arithmetic)
    return key


def compares_logits(routing: Routing) -> bool:
    """Whether top-k sees the logits, and only the chosen ones are scored."""
    return routing.method == "sparsemixer" or routing.order == "topk_then_score"


def _scale_free(routing: Routing, arithmetic: Arithmetic) -> bool:
    """Whether keys may carry a common unknown factor: no bias, no declared rounding."""
    return (
        routing.score == "softmax"
        and not compares_logits(routing)
        and routing.bias != "selection"
        and not arithmetic.narrow
    )


def _groups(
    experts: Contest,
    bias: torch.Tensor | None,
    routing: Routing,
    arithmetic: Arithmetic,
) -> Contest:
    """The contest of the groups: each one's best key, or the sum of its two best.

    Two groups are twins if the experts that make up their scores are, and no other of
    the group can be among its best.
    """
    count = experts.value.shape[1]
    shape = (len(experts.value), routing.groups, count // routing.groups)
    picks = 1 if routing.group_score == "max" else 2
    value, low, high, twins = (
        tensor.view(shape)
        for tensor in (experts.value, experts.low, experts.high, experts.twins)
    )

    def best(keys: torch.Tensor) -> torch.Tensor:
        return keys.gather(2, descending(keys)[..., :picks])

    middle, least, most = best(value), best(low), best(high)
    away = torch.maximum(middle - least, most - middle)
    # Inf - Inf: known where both ends are it, else one of them is a NaN's.
    away = torch.where(least == most, 0.0, away).nan_to_num(nan=torch.inf)
    score = Tap(middle[..., 0], away[..., 0])
    if picks == 2:
        second = Tap(middle[..., 1], away[..., 1])
        score = bounds.add(score, second, "none", arithmetic.numerics)
        if _scale_free(routing, arithmetic):
            # The rounding of the sum does not scale with the common factor.
            own = arithmetic.unit * score.value.abs() + 2.0**-149
            score = with_radius(score, radius(score) + own)
        else:
            type = (
                arithmetic.type if bias is None else wider(arithmetic.type, bias.dtype)
            )
            score = arithmetic.summed(score, type)
    labels = _group_labels(value, low, high, twins, picks)
    return Contest.of(
        score.value, radius(score), labels, routing.top_groups, experts.ties
    )


def _group_labels(
    value: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    twins: torch.Tensor,
    picks: int,
) -> torch.Tensor:
    """One label i64[T, groups] for groups whose scores come from twins."""
    order = descending(value)
    value, low, high, twins = (t.gather(2, order) for t in (value, low, high, twins))
    first, last = twins[..., :1], twins[..., picks - 1 : picks]
    settled = (first == last) | (low[..., :1] > high[..., picks - 1 : picks])
    behind = high[..., picks:] < low[..., picks - 1 : picks]
    behind |= (twins[..., picks:] == last) & settled
    ends = torch.cat([first, last], dim=2).sort(dim=2).values
    width = value.shape[1] * value.shape[2] + 1
    label = ends[..., 0] * width + ends[..., 1]
    alone = -1 - torch.arange(value.shape[1], device=value.device)
    return torch.where(behind.all(dim=2), label, alone)
