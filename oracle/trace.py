"""What the oracle says of every stage: values, and how far one may stray from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from oracle.blocks.admissible import Quantised
    from oracle.routing.admissible import Admissible

#: Taps of a whole layer, in the order in which they come about.
TAPS = (
    "scores", "ids", "weights",
    "x_codes", "x_scales",
    "rows", "offsets",
    "gate_up", "intermediate", "intermediate_codes", "intermediate_scales",
    "down", "routed", "shared", "out",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tap:
    """One stage's value with its bounds, element by element.

    Shapes: value f64[...] (or an integer type: exact); worst, likely: f64[...] or None.

    A right implementation lies within ``value +- worst`` always, and within ``value +-
    likely`` for all elements of the tap at once except with `probability`. worst None
    means exact; likely None means that no statistical bound holds (a unit that
    truncates, say). `admissible` lists the other selections a router may make.
    `least_normal` is that of the type the elements are stored in, scales included, 0
    where that does not matter: matrix units align a subnormal as if it were as large.
    """

    value: torch.Tensor
    worst: torch.Tensor | None = None
    likely: torch.Tensor | None = None
    probability: float = 0.0
    admissible: Admissible | None = None
    least_normal: float = 0.0
    quantised: Quantised | None = None

    @property
    def exact(self) -> bool:
        """Whether every element has one admissible value: a right port is bit-equal."""
        return self.worst is None or not bool(self.worst.any())

    def map(self, view: Callable[[torch.Tensor], torch.Tensor]) -> Tap:
        """The tap with `view` (a reshape, slice, gather) taken of value and bounds."""
        return Tap(
            view(self.value),
            None if self.worst is None else view(self.worst),
            None if self.likely is None else view(self.likely),
            self.probability,
            least_normal=self.least_normal,
        )


@dataclass(frozen=True, slots=True)
class Trace(Mapping[str, Tap]):
    """Ordered taps of one run of the oracle."""

    taps: dict[str, Tap] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tap:
        try:
            return self.taps[name]
        except KeyError:
            known = ", ".join(self.taps)
            raise KeyError(f"no tap {name!r} in this trace; it has {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.taps)

    def __len__(self) -> int:
        return len(self.taps)
