"""How fast: copies, memory-bound kernels as a share of them, routers, launches."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from on_gpu.place import Place

from oracle.params import Params
from oracle.spec import Activation, Layer, Routing
from refmoe.kernels import cache, catalogue, compiler, loader
from refmoe.kernels.launchers.activate import activate, activate_quantize
from refmoe.kernels.launchers.combine import combine_rows
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.omni import omni_route, tactics
from refmoe.kernels.launchers.permute import align, gather, sort_slots
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.route import route_tokens

Numbers = dict[str, object]
#: Sets of inputs that calls rotate over, so that no set stays in the cache.
_SETS, _REPLAYS = 6, 15


def graph_time(calls: Sequence[Callable[[], object]], replays: int = _REPLAYS) -> float:
    """Microseconds per call: all calls in one CUDA graph, the median of its replays."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        # Results stay alive: reused memory would stay in the cache.
        kept = [call() for call in calls]
    times = []
    for round_ in range(replays + 3):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        if round_ >= 3:
            times.append(start.elapsed_time(stop) * 1e3)
    del kept
    return statistics.median(times) / len(calls)


def bandwidth(place: Place) -> float:
    """Bytes per second of a copy, reads and writes counted."""
    pairs = [
        (
            torch.randn(2**26, device=place.device),
            torch.empty(2**26, device=place.device),
        )
        for _ in range(3)
    ]
    spent = graph_time([lambda a=a, b=b: b.copy_(a) for a, b in pairs])
    return 2 * pairs[0][0].nbytes / (spent * 1e-6)


def memory_bound(place: Place, peak: float) -> Numbers:
    """8192 x 4096 bf16 and the like: microseconds, and the share of copy bandwidth."""
    rows, columns, k = 8192, 4096, 4
    numbers: Numbers = {}

    def put(name: str, size: int, make: Callable[[int], Callable[[], object]]) -> None:
        spent = graph_time([make(number) for number in range(_SETS)])
        share = size / (spent * 1e-6) / peak
        numbers[f"us {name}"] = f"{spent:8.1f}   {share:5.1%} of copy"

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=place.device, dtype=torch.bfloat16)

    xs = [randn(rows, columns) for _ in range(_SETS)]
    for name in ("mxfp8_e4m3", "mxfp4", "nvfp4", "fp8_group_128", "fp8_block_128",
                 "fp8_token", "fp8_tensor", "int8_token"):  # fmt: skip
        made = quantize(xs[0], name)
        size = xs[0].nbytes + made.codes.nbytes + made.scales.nbytes
        put(f"quantize {name}", size, lambda n, f=name: lambda: quantize(xs[n], f))
    for name in ("mxfp8_e4m3", "mxfp4", "nvfp4", "fp8_block_128"):
        given = [quantize(x, name) for x in xs]
        size = xs[0].nbytes + given[0].codes.nbytes + given[0].scales.nbytes
        put(
            f"dequantize {name} to bf16", size,
            lambda n, g=given: lambda: dequantize(g[n], dtype=torch.bfloat16),
        )  # fmt: skip
    del xs
    tokens = rows // 2
    xs = [randn(tokens, columns) for _ in range(_SETS)]
    ids = [
        torch.randint(0, 128, (tokens, k), device=place.device) for _ in range(_SETS)
    ]
    sorted_ = [sort_slots(i, 128) for i in ids]
    moved = [gather(x, s.rows, k) for x, s in zip(xs, sorted_, strict=True)]
    put("gather 4096 x 4, 4096 columns", xs[0].nbytes + moved[0].nbytes,
        lambda n: lambda: gather(xs[n], sorted_[n].rows, k))  # fmt: skip
    weights = torch.rand(tokens, k, device=place.device)
    put("combine 4096 x 4, 4096 columns", xs[0].nbytes + moved[0].nbytes,
        lambda n: lambda: combine_rows(moved[n], sorted_[n].inverse,
                                       weights))  # fmt: skip
    layer, half = Layer(8, 8, 128, 4, activation=Activation(limit=7.0)), columns
    gate_ups = [randn(rows, 2 * half) for _ in range(_SETS)]
    empty = Params(gate_ups[0][:0], gate_ups[0][:0])
    put("activate swiglu 8192 x 4096", 3 * rows * half * 2,
        lambda n: lambda: activate(gate_ups[n], empty, layer, None))  # fmt: skip
    put("activate, quantise mxfp8 8192 x 4096", rows * half * (4 + 1),
        lambda n: lambda: activate_quantize(gate_ups[n], empty, layer, None,
                                            "mxfp8_e4m3"))  # fmt: skip
    return numbers


def routers(place: Place) -> Numbers:
    """Routing and sorting slots, microseconds in a graph."""
    numbers: Numbers = {}
    v3 = Routing(
        "sigmoid", bias="selection", groups=8, top_groups=4, group_score="top2",
        renormalize="sum_plus_epsilon", epsilon=1e-20, scale=2.5,
    )  # fmt: skip
    v4 = Routing("sqrtsoftplus", bias="selection", renormalize="sum", scale=1.5)
    shapes = {
        "softmax E=128 k=4": (128, 4, Routing(renormalize="sum")),
        "softmax E=256 k=8": (256, 8, Routing(renormalize="sum")),
        "grouped sigmoid E=256 k=8": (256, 8, v3),
        "sqrtsoftplus E=256 k=6": (256, 6, v4),
        "softmax E=512 k=10": (512, 10, Routing(renormalize="sum")),
    }
    for name, (experts, k, rule) in shapes.items():
        layer = Layer(8, 8, experts, k, routing=rule)
        bias = torch.randn(experts, device=place.device)
        own = Params(bias[:0], bias[:0], router_bias=bias)
        for tokens in (1, 64, 1024, 4096, 8192):
            sets = [torch.randn(tokens, experts, device=place.device) for _ in range(4)]
            spent = graph_time([partial(route_tokens, x, own, layer) for x in sets])
            numbers[f"us route {name} T={tokens}"] = f"{spent:8.2f}"
    for experts, k in ((128, 4), (256, 8)):
        for tokens in (1, 64, 1024, 8192):
            shape = (tokens, k)
            sets = [
                torch.randint(0, experts, shape, device=place.device) for _ in range(4)
            ]
            spent = graph_time([partial(sort_slots, i, experts) for i in sets])
            numbers[f"us sort slots E={experts} k={k} T={tokens}"] = f"{spent:8.2f}"
            spent = graph_time([partial(align, i, experts, 64) for i in sets])
            numbers[f"us align 64 E={experts} k={k} T={tokens}"] = f"{spent:8.2f}"
    return numbers


def product_keys(place: Place) -> Numbers:
    """The router of sums: each tactic, beside torch's two ways."""
    numbers: Numbers = {}
    target = loader.target_for(place.device.index or 0)
    for n, k in ((128, 16), (256, 16), (256, 32), (256, 128)):
        for tokens in (1, 64, 1024, 8192):
            sets = [
                (torch.randn(tokens, n, device=place.device),
                 torch.randn(tokens, n, device=place.device)) for _ in range(4)
            ]  # fmt: skip
            own = {
                f"{t.warps}x{t.tokens}": graph_time(
                    [partial(omni_route, *s, k, tactic=t) for s in sets]
                )
                for t in tactics(target)
            }
            best = min(own, key=own.__getitem__)
            line = " ".join(f"{name}:{spent:.1f}" for name, spent in own.items())

            if tokens <= 1024:
                spent = graph_time([partial(_brute, *s, k) for s in sets])
                line += f" | torch sums + topk {spent:.1f} = {spent / own[best]:.1f}x"
            numbers[f"us omni n={n} k={k} T={tokens}"] = f"best {best} | {line}"
    return numbers


def _brute(x: torch.Tensor, y: torch.Tensor, k: int) -> object:
    return (x[:, :, None] + y[:, None, :]).flatten(1).topk(k)


def launches(place: Place) -> Numbers:
    """Host microseconds of a call, asynchronous."""
    x = torch.randn(64, 128, device=place.device, dtype=torch.bfloat16)
    layer, own = Layer(8, 8, 128, 4), Params(x[:0], x[:0])
    logits = torch.randn(64, 128, device=place.device)
    calls: dict[str, Callable[[], object]] = {
        "quantize mxfp8_e4m3": lambda: quantize(x, "mxfp8_e4m3"),
        "route": lambda: route_tokens(logits, own, layer),
        "activate": lambda: activate(x, own, layer, None),
        "torch.add": lambda: torch.add(x, x),
    }
    numbers: Numbers = {}
    for name, call in calls.items():
        for _ in range(20):
            call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(300):
            call()
        spent = (time.perf_counter() - start) / 300
        torch.cuda.synchronize()
        numbers[f"us host, {name}"] = f"{spent * 1e6:8.1f}"
    return numbers


def compiling(target: str) -> Numbers:
    """Cold compile of everything and of one instance, and a hit of the disk cache."""
    numbers: Numbers = {"nvrtc": str(compiler.version()), "target": target}
    before = os.environ.get("REFMOE_CACHE_DIR")
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["REFMOE_CACHE_DIR"] = folder
            for workers in (2, None):
                start = time.perf_counter()
                catalogue.warm_up(target, workers)
                spent = time.perf_counter() - start
                label = f"{workers} threads" if workers else "all threads"
                numbers[f"s compile everything cold, {label}"] = f"{spent:.2f}"
                for path in Path(folder).rglob("*.*"):
                    path.unlink()
            slowest, hit = 0.0, 0.0
            for file, expressions in catalogue.instances().items():
                one = (expressions[-1],)
                start = time.perf_counter()
                cache.fetch(file, one, target)
                middle = time.perf_counter()
                cache.fetch(file, one, target)
                slowest = max(slowest, middle - start)
                hit = max(hit, time.perf_counter() - middle)
            numbers["s compile one instance cold, slowest file"] = f"{slowest:.3f}"
            numbers["s from the disk cache, slowest file"] = f"{hit:.4f}"
    finally:
        os.environ.pop("REFMOE_CACHE_DIR", None)
        if before is not None:
            os.environ["REFMOE_CACHE_DIR"] = before
    return numbers
