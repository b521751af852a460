"""Kernels that move memory: microseconds, and the share of a copy's bandwidth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from oracle.params import Blocks, Params
from oracle.spec import Activation, Layer
from refmoe.kernels.bench.clock import SETS, Time, graph_time
from refmoe.kernels.launchers.activate import activate, activate_quantize
from refmoe.kernels.launchers.combine import combine_rows
from refmoe.kernels.launchers.dequantize import dequantize
from refmoe.kernels.launchers.permute import gather, sort_slots
from refmoe.kernels.launchers.quantize import quantize

ROWS, COLUMNS = 8192, 4096
_TARGET = ">= 70%"
_QUANTIZED = (
    "mxfp8_e4m3", "mxfp4", "nvfp4", "fp8_group_128", "fp8_block_128", "fp8_token",
    "fp8_tensor", "int8_token",
)  # fmt: skip
_DEQUANTIZED = ("mxfp8_e4m3", "mxfp4", "nvfp4", "fp8_block_128")
#: A scale of the whole tensor needs its amax before the first code: x is read twice.
_READ_TWICE = ("nvfp4", "fp8_tensor")

Make = Callable[[int], Callable[[], object]]


def memory_bound(device: torch.device, copied: float) -> Iterator[Time]:
    """8192 x 4096 bf16 and the like; `copied` is a copy's bytes per second."""

    def timed(name: str, size: int, make: Make, peer: Make | None = None) -> Time:
        spent = graph_time([make(n) for n in range(SETS)])
        by_torch = graph_time([peer(n) for n in range(SETS)]) if peer else None
        share = size / (spent * 1e-6) / copied
        return Time(name, spent, "us", share, by_torch, _TARGET)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    yield from _quantized(timed, randn, device)
    yield from _permuted(timed, randn, device)
    yield from _activated(timed, randn)


def _quantized(
    timed: Callable[..., Time], randn: Callable[..., torch.Tensor], device: torch.device
) -> Iterator[Time]:
    xs = [randn(ROWS, COLUMNS) for _ in range(SETS)]
    for name in _QUANTIZED:
        reads = 2 if name in _READ_TWICE else 1
        size = reads * xs[0].nbytes + _size(quantize(xs[0], name))
        label = f"quantize {name}" + (", x read twice" if reads == 2 else "")
        yield timed(label, size, lambda n, f=name: lambda: quantize(xs[n], f))
    scale = torch.full((), 2.0**-9, device=device)
    size = xs[0].nbytes + _size(quantize(xs[0], "nvfp4"))
    yield timed(
        "quantize nvfp4, scale given", size,
        lambda n: lambda: quantize(xs[n], "nvfp4", global_scale=scale),
    )  # fmt: skip
    for name in _DEQUANTIZED:
        given = [quantize(x, name) for x in xs]
        yield timed(
            f"dequantize {name} to bf16", xs[0].nbytes + _size(given[0]),
            lambda n, g=given: lambda: dequantize(g[n], dtype=torch.bfloat16),
        )  # fmt: skip


def _size(blocks: Blocks) -> int:
    return blocks.codes.nbytes + blocks.scales.nbytes


def _permuted(
    timed: Callable[..., Time], randn: Callable[..., torch.Tensor], device: torch.device
) -> Iterator[Time]:
    tokens, k, experts = ROWS // 2, 4, 128
    xs = [randn(tokens, COLUMNS) for _ in range(SETS)]
    ids = [torch.randint(0, experts, (tokens, k), device=device) for _ in range(SETS)]
    slots = [sort_slots(i, experts) for i in ids]
    rows = [(s.rows // k).long() for s in slots]
    moved = [gather(x, s.rows, k) for x, s in zip(xs, slots, strict=True)]
    size = xs[0].nbytes + moved[0].nbytes
    yield timed(
        f"gather {tokens} x {k}", size,
        lambda n: lambda: gather(xs[n], slots[n].rows, k),
        lambda n: lambda: xs[n].index_select(0, rows[n]),
    )  # fmt: skip
    weights = torch.rand(tokens, k, device=device)
    back = [s.inverse.long().flatten() for s in slots]
    factors = weights.to(torch.bfloat16)[:, None, :]
    yield timed(
        f"combine {tokens} x {k}", size,
        lambda n: lambda: combine_rows(moved[n], slots[n].inverse, weights),
        lambda n: lambda: factors @ moved[n][back[n]].view(tokens, k, COLUMNS),
    )  # fmt: skip


def _activated(
    timed: Callable[..., Time], randn: Callable[..., torch.Tensor]
) -> Iterator[Time]:
    layer = Layer(8, 8, 128, 4, activation=Activation(limit=7.0))
    xs = [randn(ROWS, 2 * COLUMNS) for _ in range(SETS)]
    none, values = Params(xs[0][:0], xs[0][:0]), ROWS * COLUMNS

    def by_torch(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, 1)
        return torch.nn.functional.silu(gate.clamp(max=7.0)) * up.clamp(-7.0, 7.0)

    yield timed(
        "activate swiglu", 3 * values * 2,
        lambda n: lambda: activate(xs[n], none, layer, None),
        lambda n: lambda: by_torch(xs[n]),
    )  # fmt: skip
    yield timed(
        "activate, quantise mxfp8", values * (2 * 2 + 1) + values // 32,
        lambda n: lambda: activate_quantize(xs[n], none, layer, None, "mxfp8_e4m3"),
    )  # fmt: skip
