"""Sparsemixer: two rounds of an argmax, each with a softmax over its near rivals."""

from __future__ import annotations

import torch

from oracle import bounds
from oracle.routing.scores import Arithmetic, radius
from oracle.trace import Tap


def sparsemixer(
    logits: Tap, ids: torch.Tensor, jitter: float, arithmetic: Arithmetic
) -> Tap:
    """The two weights of Phi-3.5's router (evaluation mode).

    Shapes: logits [T, E]; ids: i64[T, 2] -> [T, 2]

    Round r takes the largest logit m of those not yet taken. Expert e takes part in its
    softmax unless (m - l_e) / max(|l_e|, m) > 2 jitter; the weight is the softmax of
    the expert taken. Round 2 tests the original logits, so that the expert of round 1
    is kept by the test and left out for having been taken (Liu et al. 2023,
    "SparseMixer"; Phi-3.5-MoE). 0 / 0 and NaN pass the test. The weights do not sum
    to 1.

    For ids that are not the two largest, m is the logit of the id at hand. The larger
    of the two goes first, whatever their order in `ids`.
    """
    index = ids.clamp_min(0)
    own = logits.value.gather(1, index)
    second = own[:, 1] > own[:, 0]
    first = torch.where(second, index[:, 1], index[:, 0])
    other = torch.where(second, index[:, 0], index[:, 1])
    taken = torch.zeros_like(logits.value, dtype=torch.bool)
    one = _round(logits, first, taken, jitter, arithmetic)
    taken = taken.scatter(1, first[:, None], True)
    two = _round(logits, other, taken, jitter, arithmetic)
    rounds = bounds.concatenate(one, two, axis=1)
    return rounds.map(lambda t: torch.where(second[:, None], t.flip(1), t))


def _round(
    logits: Tap,
    expert: torch.Tensor,
    taken: torch.Tensor,
    jitter: float,
    arithmetic: Arithmetic,
) -> Tap:
    """The weight [T, 1] of `expert`; those `taken` count as -inf."""
    value = logits.value
    top = value.gather(1, expert[:, None])
    ratio = (top - value) / torch.maximum(value.abs(), top)
    dropped = (ratio > 2 * jitter) | taken
    # A difference, a quotient and the threshold, each rounded: may fall on either side.
    unit = 2.0**-8 if arithmetic.narrow else arithmetic.unit
    band = (3 * unit + arithmetic.numerics.divide.relative) * (ratio.abs() + 2 * jitter)
    if logits.worst is not None:
        size = torch.maximum(value.abs(), top)
        own = logits.worst.gather(1, expert[:, None])
        band = band + 4 * (logits.worst + own) / size
    unsure = ((ratio - 2 * jitter).abs() <= band) & ~taken
    rivals = Tap(value.masked_fill(taken, -torch.inf), logits.worst)
    terms = arithmetic.exponentials(rivals)
    reach = torch.where(unsure, terms.value + radius(terms), 0.0)
    terms = Tap(
        torch.where(dropped, 0.0, terms.value),
        torch.where(dropped | unsure, reach, radius(terms)),
    )
    mine = terms.map(lambda tensor: tensor.gather(1, expert[:, None]))
    return arithmetic.divide(mine, arithmetic.total(terms))
