"""Times of `refmoe bench --kernels` as numbers by name."""

from __future__ import annotations

from collections.abc import Iterable

from on_gpu.place import Place

from refmoe.kernels.bench import clock
from refmoe.kernels.bench.clock import graph_time

__all__ = ["Numbers", "bandwidth", "graph_time", "numbers"]

Numbers = dict[str, object]


def bandwidth(place: Place) -> float:
    """Bytes per second of a copy, reads and writes counted."""
    return clock.bandwidth(place.device)


def numbers(times: Iterable[clock.Time]) -> Numbers:
    """Every time under its name."""
    return {time.name: str(time) for time in times}
