"""What a router does: ties, where it rounds, how it renormalises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch

from oracle.formats import round_to
from oracle.spec import Routing
from refmoe.generator import Stream
from refmoe.identify.box import bits
from refmoe.identify.contest import Contest
from refmoe.identify.router import EXPERTS, TOP_K, Router

#: Relative error that fp32 and fp64 arithmetic of a router stays below.
_SLACK = {"fp32": 2.0**-19, "fp64": 2.0**-44}
_READ = 2.0**-8
ROUNDING = ("logits", "router", "weights")


def ties(router: Router) -> Contest:
    """Which of equal logits is chosen; other choices than by index are "any"."""
    tokens = 24
    low = Stream(3, "ties").integers((tokens, EXPERTS), 0, 2).float()
    low[0] = 1.0
    if router.routing.groups > 1:
        low[:] = 1.0
    _, chosen = router(low)

    def by(descending: torch.Tensor) -> torch.Tensor:
        order = descending.sort(dim=1, descending=True, stable=True).indices
        first = order[:, :TOP_K]
        return torch.zeros_like(chosen).scatter(1, first, True)

    lowest, highest = by(low), by(low.flip(1)).flip(1)
    number = torch.exp2(torch.arange(EXPERTS, dtype=torch.float64))

    def coded(mask: torch.Tensor) -> torch.Tensor:
        return (mask.double() * number).sum(1)

    def given(token: int) -> str:
        return f"logits {low[token].int().tolist()}, chosen as a bit mask"

    found = Contest(router.case.op, ("ties",), coded(chosen), given)
    found.add(("lowest",), coded(lowest))
    found.add(("highest",), coded(highest))
    # Any choice of the largest: as many of them from each level.
    fair = (_levels(low, chosen) == _levels(low, lowest)).all(1)
    found.add(("any",), coded(chosen), possible=fair)
    return found


def _levels(low: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How many of each level are chosen, [T, 3]."""
    return torch.stack([(mask & (low == level)).sum(1) for level in range(3)], 1)


def rounding(router: Router) -> Contest:
    """The types of the logits, the arithmetic and the weights."""
    tokens, routing = 16, router.routing
    steps = Stream(4, "levels").permutations(tokens, EXPERTS).double() / 4.0 - 2.0
    fine = Stream(4, "fine").integers((tokens, EXPERTS), 1, (1 << 17) - 1).double()
    logits = (steps + fine * 2.0**-20).float()
    dense, chosen = router(logits)
    got = dense[chosen]
    wide = ("fp32", "fp64") if bool((got != round_to(got, "fp32")).any()) else ("fp32",)
    kinds = (*wide, "bf16", "fp16")
    where = chosen.nonzero().tolist()

    def given(place: int) -> str:
        token, expert = where[place]
        return f"logits {token} of 16, the weight of expert {expert}"

    found = Contest(
        router.case.op, ROUNDING, got, given, 0.0 if router.exact else _READ
    )
    for first, second, third in product(("none", "bf16", "fp16"), kinds, kinds):
        entered = (
            logits.double() if first == "none" else round_to(logits.double(), first)
        )
        for exact in weighed(round_to(entered, second), chosen, routing, second):
            slack = exact.abs() * _SLACK.get(second, 0.0)
            low, high = (round_to(end, third) for end in (exact - slack, exact + slack))
            held = None
            if router.exact:
                held = (got == round_to(got, second)) & (got == round_to(got, third))
            found.add((first, second, third), low, high, held)
    return found


def weighed(
    logits: torch.Tensor, chosen: torch.Tensor, routing: Routing, kind: str
) -> Iterator[torch.Tensor]:
    """The weights of the chosen, row by row, each operation rounded if `kind` is
    narrow; the softmax whole, then operation by operation.

    Shapes: logits f64[T, E], chosen bool[T, E] -> f64[T * k]
    """

    def step(values: torch.Tensor) -> torch.Tensor:
        return round_to(values, kind) if kind in ("bf16", "fp16") else values

    if routing.order == "topk_then_score":
        logits = logits.masked_fill(~chosen, -math.inf)
    scores = [logits]
    if routing.score == "softmax":
        power = step(step(logits - logits.amax(1, keepdim=True)).exp())
        scores = [
            step(logits.softmax(1)),
            step(power / step(power.sum(1, keepdim=True))),
        ]
    elif routing.score == "sigmoid":
        scores = [step(logits.sigmoid())]
    elif routing.score == "sqrtsoftplus":
        scores = [step(step(torch.log1p(step(logits.exp()))).sqrt())]
        scores += [step(step(torch.log1p(logits.exp())).sqrt())]
    for score in scores:
        weights = score.where(chosen, 0.0)
        if routing.renormalize != "none":
            total = step(weights.sum(1, keepdim=True))
            if routing.renormalize == "max_sum_epsilon":
                total = total.clamp(min=routing.epsilon)
            elif routing.renormalize == "sum_plus_epsilon":
                total = step(total + routing.epsilon)
            weights = step(weights / total)
        if routing.scale_on == "weights":
            weights = step(weights * routing.scale)
        yield weights[chosen]


def renormalising(router: Router) -> Contest:
    """The form of the division by the sum, and its epsilon, from ever smaller scores.

    Under a softmax the chosen scores never get small: there only whether they are
    divided shows.
    """
    routing, small = router.routing, router.routing.score != "softmax"
    depth = torch.arange(2.0, 80.0, 1.0) if small else torch.arange(1.0, 5.0)
    logits = torch.full((len(depth), EXPERTS), -200.0)
    logits[:, :TOP_K] = -depth[:, None] if small else 0.0
    # Under a softmax the rest takes a part that grows.
    logits[:, TOP_K:] = -200.0 if small else -(depth[:, None])
    dense, chosen = router(logits)
    if routing.scale_on == "weights":
        dense = dense / routing.scale
    score = logits.double()
    if routing.order == "topk_then_score":
        score = score.masked_fill(~chosen, -math.inf)
    score = {
        "softmax": score.softmax(1),
        "sigmoid": score.sigmoid(),
        "sqrtsoftplus": torch.log1p(score.exp()).sqrt(),
        "identity": score,
    }[routing.score]
    total = (score * chosen).sum(1)
    got = dense.sum(1)
    epsilon = routing.epsilon
    if small and not bool((got > 0).all()):
        # A sigmoid with an absolute error: what is left of small scores says nothing.
        kept = total > 2.0**-8
        total, got = total[kept], got[kept]
    elif small:
        left = float((total / got)[-1])
        epsilon = float(f"{left:.2g}") if left > 4.0 * float(total[-1]) else 0.0

    def given(place: int) -> str:
        return f"chosen scores that add up to {bits(float(total[place]))}"

    found = Contest(
        router.case.op, ("renormalize", "epsilon"), got, given,
        2.0**-7 if not router.exact else 2.0**-6 if small else 2.0**-8,
    )  # fmt: skip
    found.add(("none", 0.0), total)
    found.add(("sum", 0.0), torch.ones_like(total))
    for value in dict.fromkeys((epsilon, routing.epsilon, 1e-20)):
        if value and small:
            found.add(("sum_plus_epsilon", value), total / (total + value))
            found.add(("max_sum_epsilon", value), total / total.clamp(min=value))
    return found
