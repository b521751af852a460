"""Cold compiles of everything and of one instance, and a hit of the disk cache."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from refmoe.kernels import cache, catalogue, loader
from refmoe.kernels.bench.clock import Time


def compiling(device: torch.device) -> Iterator[Time]:
    """Seconds, in cache folders of their own."""
    target = loader.target_for(device.index or 0)
    for workers, target_time in ((2, "<= 10"), (None, "")):
        with _fresh_cache():
            start = time.perf_counter()
            catalogue.warm_up(target, workers)
            spent = time.perf_counter() - start
        label = f"{workers} threads" if workers else "all threads"
        yield Time(f"compile everything, {label}", spent, "s", target=target_time)
    slowest, hit = 0.0, 0.0
    with _fresh_cache():
        for file, expressions in catalogue.launched().items():
            one = expressions[:1]  # the one that takes longest
            start = time.perf_counter()
            cache.fetch(file, one, target)
            middle = time.perf_counter()
            cache.fetch(file, one, target)
            slowest = max(slowest, middle - start)
            hit = max(hit, time.perf_counter() - middle)
    yield Time("compile one instance, the slowest", slowest, "s", target="<= 1")
    yield Time("one instance from the disk cache", hit, "s", target="<= 0.05")


@contextmanager
def _fresh_cache() -> Iterator[None]:
    before = os.environ.get("REFMOE_CACHE_DIR")
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["REFMOE_CACHE_DIR"] = folder
            yield
    finally:
        os.environ.pop("REFMOE_CACHE_DIR", None)
        if before is not None:
            os.environ["REFMOE_CACHE_DIR"] = before
