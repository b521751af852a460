"""Who may win a place when every key is known only to lie within an interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from oracle.numerics import Ties
from oracle.routing.order import descending, first_equal, sortable


@dataclass(frozen=True, eq=False)
class Contest:
    """N entrants a row; the `places` with the largest keys win.

    Shapes: value, low, high: f64[T, N]; twins: i64[T, N]

    A key lies anywhere in low..high, `value` being the oracle's. Entrants with the same
    label in `twins` have equal inputs, hence equal keys in any implementation that
    treats entrants alike: between them the tie rule decides, whatever the radius. A NaN
    key may stand anywhere, for there are those who sort it first; the oracle has it
    last, behind -inf.
    """

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    twins: torch.Tensor
    places: int
    ties: Ties = "lowest"

    @classmethod
    def of(
        cls,
        value: torch.Tensor,
        radius: torch.Tensor,
        labels: torch.Tensor,
        places: int,
        ties: Ties,
    ) -> Contest:
        """A contest of keys value +- radius; twins share a label.

        Twins get the very same interval, that of the first. Under ``ties="any"`` no one
        is a twin: equal keys are in any order. Nor is a NaN.
        """
        twins = first_equal(labels)
        value, radius = value.gather(1, twins), radius.gather(1, twins)
        alone = torch.arange(value.shape[1], device=value.device).expand_as(twins)
        twins = alone if ties == "any" else torch.where(value.isnan(), alone, twins)
        # Inf - Inf: an overflow that may not happen leaves the key unknown.
        low = torch.where(radius.isinf(), -torch.inf, value - radius)
        high = torch.where(radius.isinf() | value.isnan(), torch.inf, value + radius)
        return cls(value, low, high, twins, places, ties)

    def rows(self, index: torch.Tensor) -> Contest:
        """The contests of some rows."""
        return replace(
            self,
            value=self.value[index],
            low=self.low[index],
            high=self.high[index],
            twins=self.twins[index],
        )

    def masked(self, stays: torch.Tensor, fill: float) -> Contest:
        """The contest in which all but `stays` bool[T, N] have the exact key `fill`."""
        others = self.value.shape[1]
        if self.ties == "any":
            twins = self.twins
        else:
            twins = torch.where(stays, self.twins, others)
        return replace(
            self,
            value=torch.where(stays, self.value, fill),
            low=torch.where(stays, self.low, fill),
            high=torch.where(stays, self.high, fill),
            twins=twins,
        )

    @cached_property
    def winners(self) -> torch.Tensor:
        """The oracle's winners i64[T, places], the best first."""
        if self.ties == "highest":
            last = self.value.shape[1] - 1
            return last - descending(self.value.flip(1))[:, : self.places]
        return descending(self.value)[:, : self.places]

    @cached_property
    def won(self) -> torch.Tensor:
        """bool[T, N]: who is among the winners."""
        return torch.zeros_like(self.value, dtype=torch.bool).scatter_(
            1, self.winners, True
        )

    @cached_property
    def standings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Best and worst place of each entrant among all ends of intervals, 0 the best.

        Entrant a can be ahead of b iff best[a] < worst[b]; equal ends stand in the
        order of the tie rule.
        """
        low, high = sortable(self.low), sortable(self.high)
        if self.ties == "any":
            ends = torch.cat([high, low], dim=1)
        elif self.ties == "lowest":
            ends = torch.stack([high, low], dim=2).flatten(1)
        else:
            ends = torch.stack([high.flip(1), low.flip(1)], dim=2).flatten(1)
        order = ends.sort(dim=1, descending=True, stable=True).indices
        ranks = torch.arange(ends.shape[1], device=order.device).expand_as(order)
        place = torch.empty_like(order).scatter_(1, order, ranks)
        if self.ties == "any":
            best, worst = place.chunk(2, dim=1)
            return best, worst
        best, worst = place[:, ::2], place[:, 1::2]
        return (best, worst) if self.ties == "lowest" else (best.flip(1), worst.flip(1))

    def allows(self, chosen: torch.Tensor) -> torch.Tensor:
        """Whether keys within the intervals exist that make exactly `chosen` win.

        Shapes: chosen: bool[T, N], `places` a row -> bool[T]

        The highest keys of those chosen (at least `top`) must not lie below the lowest
        keys of the others (at most `bottom`). Where the two meet, the entrants that
        reach them tie. Where twins are cut (some chosen, some not) their common key is
        the threshold between both, so that all cut entrants tie. The tie rule must hold
        across all that tie.
        """
        low, high = sortable(self.low), sortable(self.high)
        most, least = torch.iinfo(torch.int64).max, torch.iinfo(torch.int64).min
        top = torch.where(chosen, high, most).amin(dim=1, keepdim=True)
        bottom = torch.where(chosen, least, low).amax(dim=1, keepdim=True)
        if self.ties == "any":
            return (top >= bottom)[:, 0]
        ends = torch.where(chosen, high, low)
        tied = self._cut(chosen) | ((top == bottom) & (ends == top))
        rank = self.rank.expand_as(low)
        last = torch.where(tied & chosen, rank, -1).amax(dim=1)
        first = torch.where(tied & ~chosen, rank, low.shape[1]).amin(dim=1)
        return (top >= bottom)[:, 0] & (last < first)

    @cached_property
    def certain(self) -> torch.Tensor:
        """bool[T]: no other set of winners is possible."""
        best, worst = self.standings
        behind = 2 * best.shape[1]
        chosen = self.won
        cut = self._cut(chosen)

        def ahead(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
            last = torch.where(some, worst, -1).amax(dim=1)
            return last < torch.where(others, best, behind).amin(dim=1)

        cut_classes = torch.where(cut, self.twins, -1)
        same = cut_classes == cut_classes.amax(dim=1, keepdim=True)
        one_class = (same | ~cut).all(dim=1)
        between_twins = (
            one_class
            & ahead(chosen & ~cut, ~chosen)
            & ahead(chosen & cut, ~chosen & ~cut)
        )
        return ahead(chosen, ~chosen) | between_twins

    @property
    def rank(self) -> torch.Tensor:
        """Order of the entrants under the tie rule, i64[N]."""
        rank = torch.arange(self.value.shape[1], device=self.value.device)
        return rank.flip(0) if self.ties == "highest" else rank

    def _cut(self, chosen: torch.Tensor) -> torch.Tensor:
        """bool[T, N]: members of a class of twins of which only some are chosen."""
        counts = torch.zeros(
            (len(chosen), chosen.shape[1] + 1), dtype=torch.int64, device=chosen.device
        )
        total = counts.scatter_add(1, self.twins, torch.ones_like(self.twins))
        inside = counts.scatter_add(1, self.twins, chosen.to(torch.int64))
        return ((inside > 0) & (inside < total)).gather(1, self.twins)
