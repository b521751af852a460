"""How fast the grouped GEMM is beside PyTorch's, tile by tile."""

from __future__ import annotations

from functools import partial

import torch
from on_gpu.place import Place
from on_gpu.times import Numbers, graph_time

from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.tensor_cores import TACTICS, tensor_cores


def grouped_gemms(place: Place) -> Numbers:
    """BF16 experts at 4096 tokens, each GEMM tile and `torch._grouped_mm` alone."""
    numbers: Numbers = {}
    shapes = {"gpt-oss": (2880, 2880, 128, 4), "flash": (4096, 2048, 256, 6)}
    for model, (hidden, width, count, k) in shapes.items():
        rows, device, bf16 = 4096 * k, place.device, torch.bfloat16
        x = torch.randn(rows, hidden, device=device, dtype=bf16)
        w = torch.randn(count, 2 * width, hidden, device=device, dtype=bf16)
        ends = torch.arange(1, count + 1, device=device, dtype=torch.int32)
        ends = ends * rows // count
        offsets = torch.nn.functional.pad(ends, (1, 0)).int()
        gemm = Gemm(x, w, offsets, bf16)
        own = {
            name: graph_time([partial(tensor_cores, gemm, tactic)])
            for name, tactic in TACTICS.items()
        }
        peer = graph_time([lambda x=x, w=w, e=ends: torch._grouped_mm(x, w.mT, e)])
        for name, spent in own.items():
            numbers[f"us grouped GEMM {model} {name}"] = f"{spent:.0f}"
        best = min(own.values())
        numbers[f"us torch._grouped_mm {model}"] = f"{peer:.0f} ({peer / best:.0%})"
    return numbers
