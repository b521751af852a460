"""Experts that contribute nothing, and ids of experts that are not here."""

from __future__ import annotations

from typing import Any

import torch

from oracle.trace import Tap
from refmoe.diagnose.hypothesis import Alteration, Hypothesis, Place
from refmoe.problem import Problem

_EXPERTS = ("experts", "moe")


def _experts_dropped(first: Any, stop: Any) -> Alteration:
    """Rows of the experts from first(count) to stop(count) count as zero."""

    def altered(place: Place, tap: Tap) -> Tap:
        count = len(place.offsets) - 1
        lost = slice(place.offsets[first(count)], place.offsets[stop(count)])
        keep = torch.ones(len(tap.value), 1, dtype=tap.value.dtype)
        keep[lost] = 0
        return tap.map(lambda t: t * keep)

    return altered


_FIRST = _experts_dropped(lambda count: 0, lambda count: 1)
_LAST = _experts_dropped(lambda count: count - 1, lambda count: count)
_UPPER = _experts_dropped(lambda count: count // 2, lambda count: count)


def _of_a_rank(problem: Problem) -> Problem | None:
    """The problem itself, where it is that of a rank with some of the experts."""
    return problem if "local" in problem.inputs else None


def _identity_dropped(problem: Problem) -> Problem | None:
    ids, experts = problem.inputs["ids"], problem.layer.experts
    if not problem.layer.routing.zero_experts:
        return None
    ids = torch.where(ids >= experts, -1, ids)
    return problem.but(inputs={**problem.inputs, "ids": ids})


def _absent_as(name: str, about: str, expert: int) -> Hypothesis:
    """Ids of no expert here count as one: the first, or -1 for the last."""

    def changed(problem: Problem) -> Problem | None:
        ids = problem.inputs["ids"]
        start, stop = problem.inputs.get("local") or (0, problem.layer.experts)
        absent = (ids < start) | ((ids >= stop) & (ids < problem.layer.experts))
        if not bool(absent.any()):
            return None
        wrong = torch.where(absent, start + expert % (stop - start), ids)
        return problem.but(inputs={**problem.inputs, "ids": wrong})

    return Hypothesis(name, about, changed, ops=("permute", "experts"))


HYPOTHESES = (
    _absent_as(
        "absent_is_the_last", "an id of no expert here counts as the last one", -1
    ),
    _absent_as(
        "absent_is_the_first", "an id of no expert here counts as the first one", 0
    ),
    Hypothesis(
        "identity_experts_dropped",
        "experts without weights contribute nothing",
        _identity_dropped,
        ops=("experts",),
    ),
    Hypothesis(
        "upper_half_dropped",
        "experts of the second half contribute nothing (an offset twice, say)",
        alter={"down": _UPPER},
        ops=_EXPERTS,
    ),
    Hypothesis(
        "expert_0_dropped",
        "expert 0 contributes nothing (an index taken for a mask, say)",
        alter={"down": _FIRST},
        ops=_EXPERTS,
    ),
    Hypothesis(
        "first_expert_of_a_rank_dropped",
        "a rank's first expert contributes nothing (a start off by one, say)",
        _of_a_rank,
        {"down": _FIRST},
        _EXPERTS,
    ),
    Hypothesis(
        "last_expert_of_a_rank_dropped",
        "a rank's last expert contributes nothing (an end off by one, say)",
        _of_a_rank,
        {"down": _LAST},
        _EXPERTS,
    ),
    Hypothesis(
        "last_expert_dropped",
        "the last expert contributes nothing",
        alter={"down": _LAST},
        ops=_EXPERTS,
    ),
)
