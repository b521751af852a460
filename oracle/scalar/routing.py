"""Routing of one token: ids by exact comparison, weights as enclosures.

Methods and their sources are those of `oracle.spec.Routing`: softmax and sigmoid top-k
with renormalisation (Mixtral, Qwen), top-k first (GPT-OSS, Llama-4), group limits with
selection bias (DeepSeek-V2, V3), sqrt(softplus) and hash layers (DeepSeek-V4), softmax
with bias and identity experts (ERNIE, LongCat), sparsemixer (Phi-3.5, arXiv
2409.12136), shared experts in the normalisation (Inkling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from oracle.scalar.interval import (
    EXACT,
    Interval,
    Number,
    exact,
    maximum,
    precision,
    total,
)
from oracle.scalar.keys import Comparison, Key, Undecided
from oracle.scalar.scores import (
    Logit,
    atom_of,
    comparison,
    keys_of,
    logit_value,
    logits_of,
    score_all,
)


@dataclass(frozen=True, slots=True)
class Routed:
    """One token's ids (descending key), their weights, and the shared experts'."""

    ids: list[int]
    weights: list[Interval]
    shared: list[Interval]


def route(
    row: Sequence[Number],
    layer: Any,
    *,
    router_bias: Sequence[Number] | None = None,
    per_expert_scale: Sequence[Number] | None = None,
    hashed: Sequence[int] | None = None,
) -> Routed:
    """Route one token.

    `row` holds the logits of the experts, the identity experts and the shared ones, in
    this order; `hashed` the token's row of the hash table.
    """
    routing, k = layer.routing, layer.top_k
    choices = layer.experts + routing.zero_experts
    bias = router_bias or [0] * choices
    logits = logits_of(row, routing, bias)
    shared = logits[choices:]
    if routing.method == "sparsemixer":
        ids, weights = sparsemixer(logits[:choices], k, routing)
        extra = score_all(shared, routing, routing.score) if shared else []
    else:
        if routing.method == "hash":
            ids = list(hashed or [])
        else:
            with precision(EXACT):
                keys, comparator = keys_of(logits, choices, routing, bias)
                ids = select(keys, comparator, k, routing)
        weights, extra = _weights(logits, shared, ids, routing)
    weights, extra = _renormalise(weights, extra, routing)
    if routing.per_expert_scale and per_expert_scale is not None:
        weights = [w * per_expert_scale[i] for w, i in zip(weights, ids, strict=True)]
    if routing.scale_on == "weights" and routing.scale != 1:
        weights = [w * routing.scale for w in weights]
        extra = [w * routing.scale for w in extra]
    return Routed(ids, weights, extra)


def select(keys: list[Key], comparator: Comparison, k: int, routing: Any) -> list[int]:
    """The k largest keys after the group limit, equal ones by lowest index."""
    if routing.groups > 1:
        size = len(keys) // routing.groups
        runs = [keys[g * size : (g + 1) * size] for g in range(routing.groups)]
        group_keys = [_group_key(run, comparator, routing.group_score) for run in runs]
        kept = comparator.order(group_keys)[: routing.top_groups]
        fill = Key(Fraction(0), removed=routing.masked_fill == "-inf")
        keys = [key if i // size in kept else fill for i, key in enumerate(keys)]
    return comparator.order(keys)[:k]


def _group_key(run: list[Key], comparator: Comparison, score: str) -> Key:
    """A group's largest key, or the sum of its two largest."""
    ranked = [run[i] for i in comparator.order(run)]
    if score == "max" or len(ranked) == 1:
        return ranked[0]
    return ranked[0] + ranked[1]


def _weights(
    logits: list[Logit], shared: list[Logit], ids: list[int], routing: Any
) -> tuple[list[Interval], list[Interval]]:
    """Unbiased scores of the chosen and of the shared experts.

    Scores are taken over all logits, or over the chosen (and the shared) ones alone.
    """
    if routing.order == "score_then_topk":
        scores = score_all(logits, routing, routing.score)
        return [scores[i] for i in ids], scores[len(logits) - len(shared) :]
    scores = score_all([logits[i] for i in ids] + shared, routing, routing.score)
    return scores[: len(ids)], scores[len(ids) :]


def _renormalise(
    weights: list[Interval], shared: list[Interval], routing: Any
) -> tuple[list[Interval], list[Interval]]:
    """Divide by the sum of chosen and shared weights, guarded by epsilon."""
    if routing.renormalize == "none":
        return weights, shared
    divisor = total([*weights, *shared])
    if routing.renormalize == "sum_plus_epsilon":
        divisor = divisor + exact(routing.epsilon)
    elif routing.renormalize == "max_sum_epsilon":
        divisor = maximum([divisor, Interval.of(routing.epsilon)])
    return [w / divisor for w in weights], [w / divisor for w in shared]


def sparsemixer(
    logits: list[Logit], k: int, routing: Any
) -> tuple[list[int], list[Interval]]:
    """Sparsemixer at inference, k rounds.

    In each round m is the largest logit not chosen yet; a logit l drops out if
    (m - l) / max(|l|, m) > 2 jitter; the weight is the softmax of m among the rest.
    """
    threshold = 2 * exact(routing.jitter)
    with precision(EXACT):
        atoms = [atom_of(logit, routing) for logit in logits]
        keys = [Key(Fraction(0), (atom,)) for atom in atoms]
        ranked = comparison(atoms, routing, "identity").order(keys)[:k]
        values = [logit_value(logit, routing) for logit in logits]
    ids: list[int] = []
    weights: list[Interval] = []
    for best in ranked:
        left = [i for i in range(len(logits)) if i not in ids]
        with precision(EXACT):
            stay = [i for i in left if not _drops(values[i], values[best], threshold)]
        scores = score_all([logits[i] for i in stay], routing, "softmax")
        weights.append(scores[stay.index(best)])
        ids.append(best)
    return ids, weights


def _drops(x: Interval, top: Interval, threshold: Fraction) -> bool:
    """Whether (top - x) / max(|x|, top) > threshold; never where that is 0/0."""
    distance = top - x - maximum([abs(x), top]) * threshold
    if distance.low > 0:
        return True
    if distance.high <= 0:
        return False
    raise Undecided(f"scalar: sparsemixer keeps or drops {x} beside {top}")
