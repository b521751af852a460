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
    #: bool[P] of each candidate: outputs that it does not explain.
    wrong: dict[Key, torch.Tensor] = field(default_factory=dict)

    def add(
        self,
        key: Key,
        low: torch.Tensor,
        high: torch.Tensor | None = None,
        possible: torch.Tensor | None = None,
    ) -> None:
        """A candidate's prediction; it may be added more than once, under variants.

        `possible` is False for outputs that it cannot give for another reason.
        """
        high = low if high is None else high
        slack = torch.maximum(low.abs(), high.abs()) * self.reading
        wrong = ~((self.got >= low - slack) & (self.got <= high + slack))
        if possible is not None:
            wrong |= ~possible
        if key not in self.wrong or int(wrong.sum()) < int(self.wrong[key].sum()):
            self.predicted[key], self.wrong[key] = (low, high), wrong

    @property
    def survivors(self) -> list[Key]:
        """Candidates that explain every output."""
        return [key for key, wrong in self.wrong.items() if not bool(wrong.any())]

    def settle(
        self, declared: Mapping[str, Any], default: Mapping[str, Any]
    ) -> tuple[list[Evidence], list[Open]]:
        """The fields' evidence: the candidate next to the declaration, if any is left.

        A field of which every value explains the outputs is open.
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
            if len(found) == len(every):
                reason = "every candidate explains the outputs: a later stage hides it"
                if len(every) == 1:
                    reason = "no layer of the port's has what would show it"
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
            rival: key
            for rival in every
            if (key := (*best[:place], rival, *best[place + 1 :])) in self.predicted
        }
        # The output that refutes most of them.
        wrong = torch.stack([self.wrong[key] for key in rivals.values()])
        row = int(wrong.sum(0).argmax())
        status: Status = "observed"
        if declared.get(name) is not None:
            status = "agrees" if declared[name] == value else "contradicts"
        return Evidence(
            name, value, found, self.op, self.given(row), bits(float(self.got[row])),
            {str(rival): self._shown(key, row) for rival, key in rivals.items()},
            declared.get(name), status,
        )  # fmt: skip

    def _shown(self, key: Key, row: int) -> str:
        """A prediction, and how many outputs refute the candidate."""
        low, high = (bits(float(end[row])) for end in self.predicted[key])
        count = int(self.wrong[key].sum())
        refuted = f" (wrong {count} of {len(self.got)} times)" if count else ""
        return (low if low == high else f"{low} to {high}") + refuted
