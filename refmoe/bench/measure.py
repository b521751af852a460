"""Timing of two things in one run, so that only their ratio counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: seconds of ours and of the peer, and the ratio aimed at."""

    name: str
    ours: float
    peer: float
    target: float

    @property
    def ratio(self) -> float:
        """Ours over the peer's: below `target` is good."""
        return self.ours / self.peer

    @property
    def met(self) -> bool:
        """Whether the ratio is within the target."""
        return self.ratio <= self.target


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    target: float,
    repeats: int = 7,
) -> Row:
    """Time both alternately, after a warm-up each; report the medians."""
    seconds: tuple[list[float], list[float]] = ([], [])
    ours()
    peer()
    for _ in range(repeats):
        for kept, function in zip(seconds, (ours, peer), strict=True):
            start = time.perf_counter()
            function()
            kept.append(time.perf_counter() - start)
    return Row(
        name, statistics.median(seconds[0]), statistics.median(seconds[1]), target
    )
