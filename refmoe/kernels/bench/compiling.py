"""Cold compiles of everything, of one instance and of a layer, and disk cache hits."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from oracle.blocks import preset, quantize
from oracle.params import Params
from oracle.spec import Layer
from refmoe.kernels import cache, catalogue, foresight, loader
from refmoe.kernels.bench.clock import Time
from refmoe.kernels.launchers.moe import moe

#: Of a layer's weights, and of what is multiplied with them.
FORMATS = (
    ("bf16", "bf16"),
    ("fp8_block_128", "fp8_group_128"),
    ("int8_channel", "int8_token"),
)


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
    for formats in FORMATS:
        yield from of_layer(target, *formats)


def of_layer(target: str, weights: str, values: str) -> Iterator[Time]:
    """What the first call of a layer's `moe` compiles; the same from disk."""
    own, given = (n if n == "bf16" else preset(n) for n in (weights, values))
    layer = Layer(256, 256, 8, 2, weights=own, activations=given, requantize=given)
    gate_up, down = (torch.ones(8, n, 256, dtype=torch.bfloat16) for n in (512, 256))
    params = Params(gate_up, down)
    if not isinstance(own, str):
        params = Params(quantize(gate_up, own), quantize(down, own))
    arguments = (gate_up[0], torch.ones(512, 8), params, layer)
    with _fresh_cache():
        start = time.perf_counter()
        foresight.compile_ahead(moe, arguments, {}, target)
        middle = time.perf_counter()
        for kernel in foresight.kernels(moe, arguments, {}, target):
            cache.find(kernel.file, (kernel.expression,), target)
        stop = time.perf_counter()
    name = f"kernels of moe, {weights} by {values}"
    yield Time(f"compile the {name}", middle - start, "s", target="<= 1")
    yield Time(f"{name}, from the disk cache", stop - middle, "s", target="<= 0.05")


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
