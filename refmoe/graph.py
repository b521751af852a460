"""A call captured in a CUDA graph, and what the graph computes on other values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

#: Calls before the capture: what is made on the first ones is no part of a graph.
_WARM = 3


def replayed(call: Callable[[], Any], refill: Callable[[], object], device: str) -> Any:
    """What `call` returned while it was captured, after `refill` and one replay.

    The call runs on its own stream first. Both it and `refill` use the same memory, so
    that the graph's pointers stay good.
    """
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(_WARM):
            call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        result = call()
    refill()
    torch.cuda.synchronize(device)
    graph.replay()
    torch.cuda.synchronize(device)
    return result
