"""Which selections a router may make when its keys carry rounding errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from oracle.routing.contest import Contest
from oracle.routing.outcomes import outcomes

#: Most sets of kept groups that are told apart for one token.
_GROUP_SETS = 1024


@dataclass(frozen=True, eq=False)
class Admissible:
    """The selections open to an implementation whose keys lie within their radius.

    Shapes: ids: i64[T, k], the oracle's own selection

    A set of k experts is admissible iff some keys within value +- radius (of the
    experts and, where there are groups, of the groups) make it the outcome under the
    tie rule of `Numerics.ties`. Experts with equal logits and biases have equal keys:
    they tie exactly and are not ambiguous, the lowest index is the contract. `experts`
    None stands for ids that are looked up: nothing but them is admissible.
    """

    ids: torch.Tensor
    experts: Contest | None = None
    groups: Contest | None = None
    fill: float = -math.inf

    @classmethod
    def of_groups(cls, experts: Contest, groups: Contest, fill: float) -> Admissible:
        """The selection among the experts of the winning groups; others have `fill`."""
        undecided = cls(experts.winners, experts, groups, fill)
        return replace(undecided, ids=undecided._decided.winners)

    @cached_property
    def margin(self) -> torch.Tensor:
        """f64[T]: how far the weakest chosen key is above the best one left out.

        In the units of the key; 0 for an exact tie, inf where nothing is left out. With
        groups the smaller of the experts' gap (within the kept groups) and the groups'.
        """
        if self.experts is None:
            return self.ids.new_full((len(self.ids),), math.inf, dtype=torch.float64)
        gap = _gap(self._decided)
        return gap if self.groups is None else torch.minimum(gap, _gap(self.groups))

    @cached_property
    def ambiguous(self) -> torch.Tensor:
        """bool[T]: some step of the selection has more than one outcome.

        Groups within their radius of the cut count, even if every choice of groups
        should lead to the same experts.
        """
        if self.experts is None:
            return torch.zeros(len(self.ids), dtype=torch.bool, device=self.ids.device)
        certain = self._decided.certain
        return ~certain if self.groups is None else ~(certain & self.groups.certain)

    def selections(self, t: int, limit: int = 64) -> torch.Tensor | None:
        """All admissible selections of token t, or None (undecided) if beyond `limit`.

        Shapes: i64[n, k]; the oracle's own first, each by falling key.
        """
        own = self.ids[t]
        if self.experts is None or not bool(self.ambiguous[t]):
            return own[None]
        contests = self._contests(t)
        if contests is None:
            return None
        sets: set[tuple[int, ...]] = set()
        for row in range(len(contests.value)):
            found = outcomes(contests, row, limit)
            if found is None:
                return None
            sets.update(tuple(members) for members in found)
            if len(sets) > limit:
                return None
        sets.discard(tuple(sorted(own.tolist())))
        order = {e: n for n, e in enumerate(self._order(t))}
        ranked = sorted(sorted(members, key=order.__getitem__) for members in sets)
        return torch.tensor([own.tolist(), *ranked], device=own.device)

    def contains(self, ids: torch.Tensor) -> torch.Tensor:
        """Whether each row of ids is an admissible selection, in whatever order.

        Shapes: ids: i[T, k] -> bool[T]

        A row with an id out of range or twice is not admissible (looked-up ids may hold
        one twice). A token with more than 1024 possible sets of groups admits any.

        Raises ValueError unless ids have the shape of the oracle's, TypeError unless
        they are integers.
        """
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise TypeError(f"contains: ids are {ids.dtype}; give an integer type")
        if ids.shape != self.ids.shape:
            raise ValueError(
                f"contains: ids have shape {tuple(ids.shape)}; this router chose "
                f"{tuple(self.ids.shape)}"
            )
        ids = ids.to(self.ids.device, torch.int64)
        if self.experts is None:
            return (ids.sort(dim=1).values == self.ids.sort(dim=1).values).all(dim=1)
        count = self.experts.value.shape[1]
        proper = ((ids >= 0) & (ids < count)).all(dim=1)
        chosen = torch.zeros_like(self.experts.value, dtype=torch.bool)
        chosen.scatter_(1, torch.where(proper[:, None], ids, 0), True)
        proper &= chosen.sum(dim=1) == ids.shape[1]
        allowed = self._decided.allows(chosen)
        if self.groups is not None:
            self._try_other_groups(chosen, allowed, proper & ~allowed)
        return allowed & proper

    @cached_property
    def _decided(self) -> Contest:
        """The experts' contest under the oracle's choice of groups."""
        assert self.experts is not None
        if self.groups is None:
            return self.experts
        return self._masked(self.experts, self.groups.won)

    def _masked(self, experts: Contest, kept: torch.Tensor) -> Contest:
        """The contest in which only the groups `kept` bool[R, groups] stay."""
        size = experts.value.shape[1] // kept.shape[1]
        return experts.masked(kept.repeat_interleave(size, dim=1), self.fill)

    def _contests(self, t: int) -> Contest | None:
        """The experts' contest of token t under each possible choice of groups.

        None if there are more than 1024 of those.
        """
        assert self.experts is not None
        if self.groups is None:
            return self.experts.rows(torch.tensor([t], device=self.ids.device))
        found = outcomes(self.groups, t, _GROUP_SETS)
        if found is None:
            return None
        kept = torch.zeros(
            len(found), self.groups.value.shape[1], dtype=torch.bool
        ).scatter_(1, torch.tensor(found), True)
        rows = torch.full((len(found),), t, device=self.ids.device)
        return self._masked(self.experts.rows(rows), kept.to(self.ids.device))

    def _try_other_groups(
        self, chosen: torch.Tensor, allowed: torch.Tensor, open_: torch.Tensor
    ) -> None:
        """Set `allowed` in place where another choice of groups explains `chosen`."""
        assert self.groups is not None
        for t in (open_ & ~self.groups.certain).nonzero().flatten().tolist():
            contests = self._contests(t)
            if contests is None:
                allowed[t] = True
            else:
                same = chosen[t].expand(len(contests.value), -1)
                allowed[t] = contests.allows(same).any()

    def _order(self, t: int) -> list[int]:
        """Entrants of token t by falling key of the oracle."""
        assert self.experts is not None
        row = self.experts.rows(torch.tensor([t], device=self.ids.device))
        order: list[int] = replace(row, places=row.value.shape[1]).winners[0].tolist()
        return order


def _gap(contest: Contest) -> torch.Tensor:
    """Weakest winner's key less the best other's; NaN counts as -inf."""
    value = torch.where(contest.value.isnan(), -math.inf, contest.value)
    weakest = torch.where(contest.won, value, math.inf).amin(dim=1)
    strongest = torch.where(contest.won, -math.inf, value).amax(dim=1)
    gap = torch.where(weakest == strongest, 0.0, weakest - strongest)
    return torch.where(contest.won.all(dim=1), math.inf, gap)
