"""Candidates against an output: which explain it, and what that says of each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from refmoe.identify.box import bits
from refmoe.identify.identified import Evidence, Open, Status

#: Relative error of what is read after at most six stages of eight bits.
READING = 6 * 2.0**-9
Key = tuple[Any, ...]


@dataclass
class Contest:
    """What each candidate predicts for a row of outputs, and what came.

    A candidate is one value for each of `fields`. A prediction is an interval, for
    stages whose last bits nobody promises.
    """

    op: str
    fields: tuple[str, ...]
    got: torch.Tensor
    given: Callable[[int], str]
    #: Relative error with which outputs are read; 0 where they come as they are.
    reading: float = 0.0
    predicted: dict[Key, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict
    )

    def add(
        self, key: Key, low: torch.Tensor, high: torch.Tensor | None = None
    ) -> None:
        """A candidate's prediction; it may be added more than once, under variants."""
        high = low if high is None else high
        if key not in self.predicted or not self._fits(*self.predicted[key]):
            self.predicted[key] = (low, high)

    def _fits(self, low: torch.Tensor, high: torch.Tensor) -> bool:
        slack = torch.maximum(low.abs(), high.abs()) * self.reading
        return bool(((self.got >= low - slack) & (self.got <= high + slack)).all())

    @property
    def survivors(self) -> list[Key]:
        """Candidates that explain every output."""
        return [key for key, want in self.predicted.items() if self._fits(*want)]

    def settle(
        self, declared: Mapping[str, Any], default: Mapping[str, Any]
    ) -> tuple[list[Evidence], list[Open]]:
        """The fields' evidence: the candidate next to the declaration, if any is left.

        A field that every value of explains the output is open.
        """
        left = self.survivors
        if not left:
            reason = "no arithmetic that is known explains the outputs"
            return [], [Open(name, reason) for name in self.fields]

        def nearness(key: Key) -> tuple[int, int]:
            pairs = list(zip(self.fields, key, strict=True))
            return (
                sum(declared.get(name) == value for name, value in pairs),
                sum(default.get(name) == value for name, value in pairs),
            )

        best = max(left, key=nearness)
        evidence, open_ = [], []
        for place, name in enumerate(self.fields):
            every = tuple(dict.fromkeys(key[place] for key in self.predicted))
            found = tuple(dict.fromkeys(key[place] for key in left))
            if len(found) == len(every) and len(every) > 1:
                reason = "every candidate explains the outputs: a later stage hides it"
                open_.append(Open(name, reason))
                continue
            evidence.append(self._evidence(place, best, found, every, declared))
        return evidence, open_

    def _evidence(
        self,
        place: int,
        best: Key,
        found: Key,
        every: Key,
        declared: Mapping[str, Any],
    ) -> Evidence:
        name, value = self.fields[place], best[place]
        rivals = {
            rival: self.predicted[key]
            for rival in every
            if (key := (*best[:place], rival, *best[place + 1 :])) in self.predicted
        }
        row = self._telling(rivals)
        status: Status = "observed"
        if declared.get(name) is not None:
            status = "agrees" if declared[name] == value else "contradicts"
        return Evidence(
            name, value, found, self.op, self.given(row), bits(float(self.got[row])),
            {str(rival): _shown(low[row], high[row])
             for rival, (low, high) in rivals.items()},
            declared.get(name), status,
        )  # fmt: skip

    def _telling(self, rivals: Mapping[Any, tuple[torch.Tensor, torch.Tensor]]) -> int:
        """The output at which the rivals differ most."""
        rows = torch.stack([low for low, _ in rivals.values()])
        return int(rows.sort(0).values.diff(dim=0).ne(0).sum(0).argmax())


def _shown(low: torch.Tensor, high: torch.Tensor) -> str:
    first, last = bits(float(low)), bits(float(high))
    return first if first == last else f"{first} to {last}"
