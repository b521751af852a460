"""Streams, graphs, poisoned memory, older targets, denormals, offsets past 2^31."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from on_gpu.place import Place
from on_gpu.report import Check, equal

from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer, Routing
from refmoe.kernels.launchers.activate import activate, activate_quantize
from refmoe.kernels.launchers.combine import combine_rows
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.experts import experts
from refmoe.kernels.launchers.grouped import grouped_quantize
from refmoe.kernels.launchers.omni import (
    omni_experts,
    omni_route,
    omni_route_backward,
)
from refmoe.kernels.launchers.permute import align, gather, sort_slots
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.route import route_tokens

Call = Callable[[], tuple[torch.Tensor, ...]]


def calls(place: Place, inputs: dict[str, torch.Tensor]) -> dict[str, Call]:
    """Every launcher on one set of inputs, results as tuples of tensors."""
    empty = Params(inputs["x"][:0], inputs["x"][:0])
    routed = Layer(8, 8, 128, 4, routing=Routing(renormalize="sum"))
    swiglu = Layer(8, 8, 128, 4, activation=Activation(limit=7.0))
    x, ids = inputs["x"], inputs["ids"]
    offsets = torch.tensor([0, 10, 10, 63, len(x)], device=place.device)

    def parts(made: Blocks) -> tuple[torch.Tensor, ...]:
        found = (made.codes, made.scales, made.global_scale)
        return tuple(part for part in found if part is not None)

    def sorting() -> tuple[torch.Tensor, ...]:
        made = sort_slots(ids, 128)
        return made.rows, made.starts, made.inverse

    def aligning() -> tuple[torch.Tensor, ...]:
        made, owners = align(ids, 128, 16)
        return made.rows, made.starts, made.inverse, owners

    def joining() -> tuple[torch.Tensor, ...]:
        made = sort_slots(ids.clamp_min(0), 128)
        rows = gather(x, made.rows, ids.shape[1])
        return rows, combine_rows(rows, made.inverse, inputs["weights"])

    def routing() -> tuple[torch.Tensor, ...]:
        made = route_tokens(inputs["logits"], empty, routed)
        return made.ids, made.weights

    def grouping() -> tuple[torch.Tensor, ...]:
        return parts(grouped_quantize(x, offsets, "mxfp8_e4m3", layout="128x4"))

    def multiplying() -> tuple[torch.Tensor, ...]:
        return (
            experts(
                x,
                ids[:, :2].contiguous(),
                inputs["weights"][:, :2].contiguous(),
                Params(inputs["gate_up"], inputs["down"]),
                Layer(512, 64, 128, 2, activation=Activation(limit=7.0)),
            ),
        )

    def back() -> tuple[torch.Tensor, ...]:
        return (dequantize(quantize(x, "mxfp4"), dtype=torch.bfloat16),)

    def fused() -> tuple[torch.Tensor, ...]:
        return parts(activate_quantize(x, empty, swiglu, None, "mxfp8_e4m3"))

    formats = (
        "mxfp4",
        "nvfp4",
        "fp8_group_128",
        "fp8_token",
        "fp8_tensor",
        "fp8_block_128",
    )
    made: dict[str, Call] = {
        f"quantize {name}": lambda n=name: parts(quantize(x, n)) for name in formats
    }
    return made | {
        "dequantize": back,
        "grouped 128x4": grouping,
        "sort": sorting,
        "align": aligning,
        "gather, combine": joining,
        "route": routing,
        "experts": multiplying,
        "activate": lambda: (activate(x, empty, swiglu, None),),
        "activate and quantise": fused,
        "omni route": lambda: omni_route(inputs["keys_x"], inputs["keys_y"], 16),
        "omni backward": lambda: omni_route_backward(
            inputs["weights"], ids.clamp_min(0), 12
        ),
        "omni experts": lambda: (
            omni_experts(x, ids, inputs["weights"], inputs["up"], inputs["up"]),
        ),
    }


def some_inputs(place: Place, seed: int) -> dict[str, torch.Tensor]:
    tokens = 97
    bf16 = torch.bfloat16
    return {
        "x": place.randn(tokens, 512, seed=seed).to(bf16),
        "ids": place.ids(tokens, 4, 128, seed),
        "weights": place.randn(tokens, 4, seed=seed + 1),
        "logits": place.randn(tokens, 128, seed=seed + 2),
        "keys_x": place.randn(tokens, 64, seed=seed + 3),
        "keys_y": place.randn(tokens, 64, seed=seed + 4),
        "up": place.randn(128, 512, seed=seed + 5).div(64).to(bf16),
        "gate_up": place.randn(128, 128, 512, seed=seed + 6).clamp(-2, 2).to(bf16),
        "down": place.randn(128, 512, 64, seed=seed + 7).clamp(-2, 2).to(bf16),
    }


def all_equal(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...]) -> None:
    for number, (one, other) in enumerate(zip(got, want, strict=True)):
        equal(one, other, f"result {number}")


def poison(place: Place) -> None:
    """Leave memory full of NaN bytes behind for the next allocations."""
    if place.device.type == "cuda":
        sizes = [512, 4096, 65536, 2**20, 2**22, 2**24, 2**26] * 6
        held = [
            torch.full((size,), 0xFF, dtype=torch.uint8, device=place.device)
            for size in sizes
        ]
        del held


def repeating(place: Place) -> Iterator[Check]:
    """The same bits again, into poisoned memory, and on another stream."""
    inputs = some_inputs(place, 0)
    for name, call in calls(place, inputs).items():

        def again(call: Call = call) -> None:
            first = call()
            poison(place)
            all_equal(call(), first)

        def elsewhere(call: Call = call) -> None:
            first = call()
            stream = torch.cuda.Stream(place.device)
            stream.wait_stream(torch.cuda.current_stream(place.device))
            with torch.cuda.stream(stream):
                second = call()
            torch.cuda.current_stream(place.device).wait_stream(stream)
            all_equal(second, first)

        yield f"{name} again", again
        if place.device.type == "cuda":
            yield f"{name} on another stream", elsewhere


def capturing(place: Place) -> Iterator[Check]:
    """Captured in a CUDA graph, replayed on other inputs."""
    for name in calls(place, some_inputs(place, 0)):

        def replay(name: str = name) -> None:
            inputs, others = some_inputs(place, 0), some_inputs(place, 50)
            call = calls(place, inputs)[name]
            call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = call()
            for key, tensor in inputs.items():
                tensor.copy_(others[key])
            graph.replay()
            torch.cuda.synchronize()
            all_equal(captured, calls(place, others)[name]())

        yield name, replay
