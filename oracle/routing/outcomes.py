"""Listing every set of winners that a contest allows."""

from __future__ import annotations

from typing import NamedTuple

import torch

from oracle.routing.contest import Contest


class _State(NamedTuple):
    """A choice among the first classes, and what still may follow it."""

    level: int
    picked: list[int]
    #: Best place of the worst chosen, worst place of the best left out.
    last_in: int
    first_out: int
    #: The same in the order of the tie rule, among classes of twins that are cut.
    last_cut: int
    first_cut: int


def outcomes(contest: Contest, row: int, limit: int) -> list[list[int]] | None:
    """Every possible set of winners of one row, or None if there are too many.

    Winners that are ahead of all others for certain are in every set. Of the undecided
    entrants, those with the best places first, each class of twins gives some of its
    members in the order of the tie rule; branches that leave out someone who must be
    ahead of a member are cut off.
    """
    best, worst = (places[row].tolist() for places in contest.standings)
    won, twins = contest.won[row].tolist(), contest.twins[row].tolist()
    rank = contest.rank.tolist()
    entrants = range(len(won))
    first_out = min((best[e] for e in entrants if not won[e]), default=2 * len(won))
    last_in = max(worst[e] for e in entrants if won[e])
    sure = [e for e in entrants if won[e] and worst[e] < first_out]
    classes: dict[int, list[int]] = {}
    for e in sorted(entrants, key=lambda e: (best[e], rank[e])):
        if worst[e] >= first_out if won[e] else best[e] <= last_in:
            classes.setdefault(twins[e], []).append(e)
    need = contest.places - len(sure)
    found = _sets(list(classes.values()), need, best, worst, rank, 4 * limit)
    if found is None:
        return None
    sets = [sorted(sure + some) for some in found]
    chosen = torch.zeros(len(sets), len(won), dtype=torch.bool)
    for number, members in enumerate(sets):
        chosen[number, members] = True
    device = contest.value.device
    single = contest.rows(torch.full((len(sets),), row, device=device))
    possible = single.allows(chosen.to(device)).tolist()
    kept = [members for members, yes in zip(sets, possible, strict=True) if yes]
    return kept if len(kept) <= limit else None


def _sets(
    classes: list[list[int]],
    places: int,
    best: list[int],
    worst: list[int],
    rank: list[int],
    limit: int,
) -> list[list[int]] | None:
    """Sets of `places` members, each able to be ahead of all left out, or None."""
    found: list[list[int]] = []
    behind = 2 * len(best)
    open_ = [_State(0, [], -1, behind, -1, behind)]
    while open_:
        state = open_.pop()
        need = places - len(state.picked)
        rest = [e for members in classes[state.level :] for e in members]
        if sum(best[e] < state.first_out for e in rest) < need:
            continue
        if not need:
            if state.last_in < min([state.first_out, *(worst[e] for e in rest)]):
                found.append(state.picked)
                if len(found) > limit:
                    return None
            continue
        members = classes[state.level]
        for count in range(min(need, len(members)) + 1):
            inside, outside = members[:count], members[count:]
            after = _State(
                state.level + 1,
                state.picked + inside,
                max([state.last_in, *(best[e] for e in inside)]),
                min([state.first_out, *(worst[e] for e in outside)]),
                state.last_cut,
                state.first_cut,
            )
            if inside and outside:
                after = after._replace(
                    last_cut=max([state.last_cut, *(rank[e] for e in inside)]),
                    first_cut=min([state.first_cut, *(rank[e] for e in outside)]),
                )
            if after.last_in < after.first_out and after.last_cut < after.first_cut:
                open_.append(after)
    return found
