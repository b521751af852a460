"""The weights of a selection: scores gathered, renormalised and scaled."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from oracle import bounds
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.routing.scores import Arithmetic, radius, with_radius
from oracle.routing.sparsemixer import sparsemixer
from oracle.spec import Layer
from oracle.trace import Tap


@dataclass(frozen=True, eq=False)
class Weigher:
    """Weighs any selection of one batch of tokens.

    Shapes: logits, scores: [T, columns], the last `shared` of them of shared experts
    """

    logits: Tap
    scores: Tap
    layer: Layer
    params: Params
    numerics: Numerics

    def weigh(
        self, ids: torch.Tensor, rows: torch.Tensor | None = None
    ) -> tuple[Tap, Tap | None]:
        """Weights of the chosen experts [R, k], and of the shared ones [R, S] or None.

        Shapes: ids: i64[R, k], -1 for an empty slot; rows: i64[R], tokens (None: all)

        Renormalising divides by the sum over both, ``sum_plus_epsilon`` by that plus
        epsilon, ``max_sum_epsilon`` by the larger of the two. Then come `scale` (unless
        it is on the sum), the scale per expert, and a rounding to `numerics.weights`.
        An empty slot has weight 0.
        """
        routing, slots = self.layer.routing, ids.shape[1]
        arithmetic = Arithmetic(self.numerics)
        logits, scores = self.logits, self.scores
        if rows is not None:
            logits, scores = (t.map(lambda t: t[rows]) for t in (logits, scores))
        columns = self._columns(ids)
        if routing.method == "sparsemixer":
            weights = sparsemixer(logits, ids, routing.jitter, arithmetic)
        elif routing.order == "topk_then_score":
            taken = _taken(logits, columns, -torch.inf)
            weights = arithmetic.point(arithmetic.score(taken, routing.score))
        else:
            weights = _taken(scores, columns, 0.0)
        weights = _without(weights, columns < 0)
        if routing.renormalize != "none":
            raw = _taken(logits, columns, -torch.inf)
            weights = self._renormalized(weights, raw, arithmetic)
        if routing.scale_on == "weights" and routing.scale != 1.0:
            scale = arithmetic.constant(routing.scale, weights)
            weights = arithmetic.multiply(weights, scale)
        shared = weights.map(lambda tensor: tensor[:, slots:])
        weights = weights.map(lambda tensor: tensor[:, :slots])
        if routing.per_expert_scale and self.params.per_expert_scale is not None:
            table = self.params.per_expert_scale.to(ids.device, torch.float64)
            own = bounds.exactly(table[ids.clamp_min(0)])
            weights = arithmetic.multiply(weights, own)
        weights = bounds.rounded(weights, self.numerics.weights, self.numerics)
        weights = _without(weights, ids < 0)
        if not routing.shared_logits:
            return weights, None
        return weights, bounds.rounded(shared, self.numerics.weights, self.numerics)

    def _columns(self, ids: torch.Tensor) -> torch.Tensor:
        """ids, then the columns of the shared experts: i64[R, k + S]."""
        start, stop = self.layer.routed_choices, self.layer.logits_columns
        shared = torch.arange(start, stop, device=ids.device)
        return torch.cat([ids, shared.expand(len(ids), -1)], dim=1)

    def _renormalized(self, scores: Tap, logits: Tap, arithmetic: Arithmetic) -> Tap:
        """The scores over their sum; a sum of zero gives NaN, as 0 / 0 does."""
        routing = self.layer.routing
        total = bounds.total(scores, 1, arithmetic.type, self.numerics)
        total = total.map(lambda tensor: tensor[:, None])
        epsilon = arithmetic.constant(routing.epsilon, total)
        if routing.renormalize == "sum_plus_epsilon":
            total = arithmetic.add(total, epsilon)
        elif routing.renormalize == "max_sum_epsilon":
            total = _at_least(total, epsilon)
        shares = arithmetic.divide(scores, total)
        if not routing.shared_logits or routing.score != "sigmoid":
            return shares
        # Inkling takes sigma / sum sigma as a softmax of log sigma.
        logs = arithmetic.log_sigmoid(logits)
        terms = arithmetic.exponentials(logs, in_logarithms=True)
        other = arithmetic.divide(terms, arithmetic.total(terms))
        apart = (other.value - shares.value).abs().nan_to_num(0.0)
        return with_radius(shares, torch.maximum(radius(shares), radius(other) + apart))


def _taken(tap: Tap, columns: torch.Tensor, empty: float) -> Tap:
    """The entries of [R, N] at columns [R, C]; `empty` at -1."""
    index = columns.clamp_min(0)
    taken = tap.map(lambda tensor: tensor.gather(1, index))
    value = taken.value.masked_fill(columns < 0, empty)
    return with_radius(Tap(value), radius(taken).masked_fill(columns < 0, 0.0))


def _without(tap: Tap, missing: torch.Tensor) -> Tap:
    return tap.map(lambda tensor: tensor.masked_fill(missing, 0.0))


def _at_least(total: Tap, least: Tap) -> Tap:
    """max(total, least) for a constant with its own radius."""
    clamped = bounds.clamp_min(total, least.value)
    if least.worst is None:
        return clamped
    reached = total.value - radius(total) <= least.value + least.worst
    return with_radius(clamped, radius(clamped) + reached * least.worst)


def dense(ids: torch.Tensor, weights: torch.Tensor, experts: int) -> torch.Tensor:
    """The weights as a matrix, the same for any order of the slots.

    Shapes: ids: i[T, k], weights: f[T, k] -> f64[T, experts]

    Slots with id -1 are left out; an id that stands twice adds up.

    >>> dense(torch.tensor([[2, -1]]), torch.tensor([[0.5, 1.0]]), 3).tolist()
    [[0.0, 0.0, 0.5]]

    Raises ValueError if shapes differ or an id is outside -1..experts - 1.
    """
    if ids.shape != weights.shape or ids.ndim != 2:
        raise ValueError(
            f"dense: ids have shape {tuple(ids.shape)}, weights "
            f"{tuple(weights.shape)}; give [T, k] twice"
        )
    check_range("dense", ids, experts)
    present = weights.to(torch.float64).masked_fill(ids < 0, 0.0)
    result = present.new_zeros((len(ids), experts))
    return result.scatter_add_(1, ids.to(torch.int64).clamp_min(0), present)


def check_range(owner: str, ids: torch.Tensor, experts: int) -> None:
    """Raise ValueError for an id outside -1..experts - 1."""
    bad = (ids < -1) | (ids >= experts)
    if bool(bad.any()):
        raise ValueError(
            f"{owner}: id {int(ids[bad][0])} is outside -1..{experts - 1}; use -1 for "
            "a slot without an expert"
        )
