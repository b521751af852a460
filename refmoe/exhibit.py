"""What a finding looks like: where its error lies, which stages hold, who had work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from refmoe.verdict import Verdict

#: Most rows and columns of a picture.
LARGEST = 64


@dataclass(frozen=True, slots=True)
class Rung:
    """One stage on the way to the result; no verdict where it is not exposed."""

    tap: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Exhibit:
    """The pictures of one finding, as numbers.

    `grid` holds error / bound of `tap`, whose shape is `shape`: the largest of each
    patch where the tap has more rows or columns than LARGEST. `load` counts the rows of
    each expert.
    """

    tap: str = ""
    shape: tuple[int, ...] = ()
    grid: tuple[tuple[float, ...], ...] = ()
    ladder: tuple[Rung, ...] = ()
    load: tuple[int, ...] = ()

    @property
    def worst(self) -> float:
        """The largest error / bound of the picture."""
        return max((max(row) for row in self.grid), default=math.nan)
