"""The product-key router: the k largest of all sums X[i] + Y[j], and its backward.

E = n^2 experts are addressed as i n + j. Scoring them takes two rows of n logits
instead of one of n^2 (product keys: Lample et al. 2019; the Omni router of omni-moe).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from oracle import bounds
from oracle.formats import round_to
from oracle.numerics import Numerics
from oracle.omni.checks import check_ids, check_logits, plain_type
from oracle.routing.order import sortable
from oracle.trace import Tap

#: Sums held at once; larger problems go through in runs of tokens.
_AT_ONCE = 1 << 21
_REFERENCE = Numerics()


class OmniRouted(NamedTuple):
    """Scores f64[T, k], falling, and flat ids i64[T, k]."""

    scores: torch.Tensor
    ids: torch.Tensor


def side(experts: int) -> int:
    """The n of n^2 = `experts`.

    >>> side(65536)
    256

    Raises ValueError if `experts` is no square: a floor would leave some unreachable.
    """
    n = math.isqrt(experts)
    if n * n != experts or n < 1:
        raise ValueError(
            f"side: experts={experts} is not a square; the product keys address n * n "
            f"experts, so give {n * n or 1} or {(n + 1) ** 2}"
        )
    return n


def omni_route(
    logits_x: torch.Tensor,
    logits_y: torch.Tensor,
    top_k: int,
    *,
    sum_type: str = "fp32",
) -> OmniRouted:
    """The top_k largest sums S[i n + j] = X[i] + Y[j] of every token, largest first.

    Shapes: logits_x, logits_y: f[T, n] -> scores f64[T, k], ids i64[T, k]

    Every sum is rounded once to `sum_type`, the type the kernel adds in; that decides
    which sums tie. Ties go to the lowest flat index, -0 equals +0. The scores have the
    logits' type (the sum rounded once more where `sum_type` is wider) and are exact.
    No softmax is taken. The ids are k distinct indices for any bits: -inf is an
    ordinary value, and sums that are NaN come after -inf, by index.

    >>> x = torch.tensor([[0.0, 1.0]]); y = torch.tensor([[0.0, 1.0]])
    >>> omni_route(x, y, 3).ids.tolist()
    [[3, 1, 2]]

    Raises TypeError unless both logits share one of the four plain types, ValueError if
    shapes differ, top_k lies outside 1..n^2, or `sum_type` cannot hold the logits.
    """
    check_logits(logits_x, logits_y, top_k, sum_type)
    plain = plain_type("omni_route", logits_x)
    tokens, n = logits_x.shape
    scores = torch.empty((tokens, top_k), dtype=torch.float64, device=logits_x.device)
    ids = torch.empty((tokens, top_k), dtype=torch.int64, device=logits_x.device)
    step = max(1, _AT_ONCE // (n * n))
    for start in range(0, tokens, step):
        rows = slice(start, start + step)
        x, y = logits_x[rows].to(torch.float64), logits_y[rows].to(torch.float64)
        sums = round_to((x[:, :, None] + y[:, None, :]).flatten(1), sum_type)
        ids[rows] = _largest(sortable(sums), top_k)
        scores[rows] = round_to(sums.gather(1, ids[rows]), plain)
    return OmniRouted(scores, ids)


def _largest(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest of each row, in the order of a stable sort.

    Sorting rows of n^2 keys is slow; the smallest key that is kept, a count of those
    above it and the first of those equal to it give the same.
    """
    if 8 * count > keys.shape[1]:
        return keys.sort(dim=1, descending=True, stable=True).indices[:, :count]
    least = keys.topk(count, sorted=False).values.amin(dim=1, keepdim=True)
    above, equal = keys > least, keys == least
    spare = count - above.sum(dim=1, keepdim=True)
    kept = above | (equal & (equal.cumsum(dim=1) <= spare))
    ids = kept.nonzero()[:, 1].view(len(keys), count)
    order = keys.gather(1, ids).sort(dim=1, descending=True, stable=True).indices
    return ids.gather(1, order)


def omni_route_backward(
    d_scores: torch.Tensor,
    ids: torch.Tensor,
    n: int,
    numerics: Numerics = _REFERENCE,
) -> tuple[Tap, Tap]:
    """Gradients of the logits: each score's gradient goes to its row and its column.

    Shapes: d_scores: f[T, k], ids: i[T, k] -> d_x, d_y: [T, n]

    dX[i] = sum of dS over the slots with id // n = i; dY[j] of those with id % n = j.
    Summed in any order in the type `numerics.combine`, then rounded to
    `numerics.output` or else the type of d_scores. Ids carry no gradient.

    Raises TypeError unless d_scores have one of the four plain types and ids are
    integers, ValueError if shapes differ or an id lies outside 0..n^2 - 1.
    """
    owner = "omni_route_backward"
    plain = plain_type(owner, d_scores)
    check_ids(owner, ids, n * n)
    if d_scores.shape != ids.shape:
        raise ValueError(
            f"{owner}: d_scores have shape {tuple(d_scores.shape)}; give "
            f"{tuple(ids.shape)}"
        )
    ids = ids.to(torch.int64)
    tokens = len(ids)
    first = torch.arange(tokens, device=ids.device)[:, None] * n
    slots = bounds.exactly(d_scores.to(torch.float64).flatten())

    def gradient(place: torch.Tensor) -> Tap:
        sums = bounds.scatter(
            slots, (first + place).flatten(), tokens * n, numerics.combine, numerics
        )
        sums = sums.map(lambda tensor: tensor.view(tokens, n))
        return bounds.rounded(sums, numerics.output or plain, numerics)

    return gradient(ids // n), gradient(ids % n)
