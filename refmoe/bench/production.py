"""A production-size trace on sampled rows: its time and the memory it takes."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace

import torch

from oracle import models
from oracle.moe import trace
from oracle.params import Blocks, Params, Streamed
from oracle.spec import BlockFormat, Layer


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one sampled trace took."""

    model: str
    tokens: int
    rows: int
    experts_touched: int
    seconds: float
    peak_gigabytes: float


def random_blocks(format: BlockFormat, rows: int, depth: int, expert: int) -> Blocks:
    """One expert's MXFP4 weight: any code, scales around 2^-6, drawn from its index."""
    generator = torch.Generator().manual_seed(expert)
    codes = torch.randint(0, 16, (rows, depth), dtype=torch.uint8, generator=generator)
    scales = torch.randint(
        118, 124, (rows, depth // 32), dtype=torch.uint8, generator=generator
    )
    return Blocks(codes, scales, format)


def streamed(layer: Layer) -> Params:
    """Weights that exist one expert at a time, so no memory holds them all."""
    form = layer.weights
    if not isinstance(form, BlockFormat) or form.block != (1, 32):
        raise ValueError(
            f"streamed: layer {layer.name!r} has weights {form!r}; give a layer with "
            "MX blocks of 32"
        )
    e, h, i, rows = layer.experts, layer.hidden, layer.intermediate, layer.gate_up_rows
    return Params(
        Streamed(
            lambda n: random_blocks(form, rows, h, 2 * n), torch.Size((e, rows, h))
        ),
        Streamed(lambda n: random_blocks(form, h, i, 2 * n + 1), torch.Size((e, h, i))),
        router_bias=torch.zeros(e),
    )


def run(
    model: str = "deepseek-v4-pro", tokens: int = 4096, rows: int = 64,
    device: str = "cpu",
) -> Footprint:  # fmt: skip
    """Trace `rows` sampled tokens of `tokens` of a model at its real size.

    The shared expert is left out: it is one dense MLP, and nothing is sampled there.
    Peak memory is the process's own high-water mark: run it in a fresh one.
    """
    layer = replace(models.get(model), shared=None)
    params = streamed(layer)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, layer.hidden, generator=generator).bfloat16().to(device)
    logits = torch.randn(tokens, layer.logits_columns, generator=generator).to(device)
    sampled = torch.randperm(tokens, generator=generator)[:rows].to(device)
    start = time.perf_counter()
    taps = trace(layer, params, x, logits, rows=sampled)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    touched = int((taps["offsets"].value.diff() > 0).sum())
    return Footprint(model, tokens, rows, touched, seconds, peak)
