"""What a call costs the host: microseconds until it returns, the GPU not awaited."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from oracle.params import Params
from oracle.spec import Layer
from refmoe.kernels.bench.clock import Time
from refmoe.kernels.launchers.activate import activate
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.route import route_tokens

_CALLS = 300


def launches(device: torch.device) -> Iterator[Time]:
    """Small calls, one after the other; the cheapest of PyTorch's for scale."""
    x = torch.randn(64, 128, device=device, dtype=torch.bfloat16)
    layer, own = Layer(8, 8, 128, 4), Params(x[:0], x[:0])
    logits = torch.randn(64, 128, device=device)
    calls: dict[str, Callable[[], object]] = {
        "quantize mxfp8_e4m3": lambda: quantize(x, "mxfp8_e4m3"),
        "route": lambda: route_tokens(logits, own, layer),
        "activate": lambda: activate(x, own, layer, None),
        "torch.add": lambda: torch.add(x, x),
    }
    for name, call in calls.items():
        for _ in range(20):
            call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_CALLS):
            call()
        spent = (time.perf_counter() - start) / _CALLS
        torch.cuda.synchronize()
        target = "" if name.startswith("torch") else "<= 25"
        yield Time(f"host time of a call, {name}", spent * 1e6, target=target)
