"""How times are taken: graphs of calls on rotating inputs, the median of replays."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

#: Sets of inputs that calls rotate over, so that no set stays in the cache.
SETS = 6
_REPLAYS, _WARM = 15, 3


@dataclass(frozen=True, slots=True)
class Time:
    """One measurement; None where there is nothing to compare with.

    `of_copy`: the bytes that must move, over the time, as a share of a copy's bytes per
    second; `torch`: the same by PyTorch's own operations, in the same unit.
    """

    name: str
    value: float
    unit: str = "us"
    of_copy: float | None = None
    torch: float | None = None
    target: str = ""

    def __str__(self) -> str:
        parts = [f"{self.value:9.2f} {self.unit}"]
        if self.of_copy is not None:
            parts.append(f"{self.of_copy:6.1%} of copy")
        if self.torch is not None:
            parts.append(f"torch {self.torch:.2f}, {self.torch / self.value:.1f}x")
        if self.target:
            parts.append(f"target {self.target}")
        return "  ".join(parts)


def graph_time(calls: Sequence[Callable[[], object]], replays: int = _REPLAYS) -> float:
    """Microseconds per call: all calls in one CUDA graph, the median of its replays."""
    new: Any = torch.cuda.Event
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # Results stay alive: reused memory would stay in the cache.
        kept = [call() for call in calls]
    times: list[float] = []
    for round_ in range(replays + _WARM):
        start, stop = new(enable_timing=True), new(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        if round_ >= _WARM:
            times.append(start.elapsed_time(stop) * 1e3)
    del kept
    return float(statistics.median(times)) / len(calls)


def bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy, reads and writes counted."""
    pairs = [
        (torch.randn(2**26, device=device), torch.empty(2**26, device=device))
        for _ in range(3)
    ]
    spent = graph_time([partial(b.copy_, a) for a, b in pairs])
    return 2 * pairs[0][0].nbytes / (spent * 1e-6)
