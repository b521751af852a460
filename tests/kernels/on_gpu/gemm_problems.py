"""Layers of experts whose GEMMs are timed: sizes, loads, operands, what is right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from on_gpu.place import Place
from on_gpu.report import equal, inside

from oracle import bounds
from oracle.blocks import dequantize
from oracle.experts import grouped_gemm as reference
from oracle.numerics import Numerics
from refmoe.kernels.launchers.gemm import Gemm
from refmoe.kernels.launchers.operands import Matrix, Packed
from refmoe.kernels.launchers.quantize import quantize
from refmoe.kernels.launchers.tactics import Tactic
from refmoe.kernels.launchers.tensor_cores import tensor_cores

BF16 = torch.bfloat16
#: Presets of x (None: bf16) and of the weights.
Formats = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a layer of experts, gate and up of `width` columns each."""

    name: str
    hidden: int
    width: int
    count: int
    k: int


MODELS = (Model("gpt-oss", 2880, 2880, 128, 4), Model("flash", 4096, 2048, 256, 6))
SMALL = (Model("small", 128, 128, 4, 2),)
FORMATS: tuple[Formats, ...] = (
    (None, "mxfp4"), ("fp8_group_128", "fp8_block_128"), ("int8_token", "int8_channel"),
)  # fmt: skip
#: Tokens with how experts share them.
LOADS = (
    (16, "random"), (256, "random"), (1024, "random"), (4096, "even"),
    (4096, "random"), (4096, "skewed"),
)  # fmt: skip


def ids_of(model: Model, tokens: int, load: str, device: torch.device) -> torch.Tensor:
    """Ids [T, k], distinct in a row unless the load is even."""
    generator = torch.Generator().manual_seed(tokens)
    if load == "even":
        ids = torch.arange(tokens * model.k) % model.count
        return ids.view(tokens, model.k).int().to(device)
    chances = torch.ones(model.count)
    if load == "skewed":
        chances = 1 / torch.arange(1, model.count + 1, dtype=torch.float32)
    chosen = torch.multinomial(chances.expand(tokens, -1), model.k, generator=generator)
    return chosen.int().to(device)


def offsets_of(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Where each expert's rows start, with the end: i32[E + 1]."""
    counts = torch.bincount(ids.flatten().long(), minlength=count)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()


def codes(values: torch.Tensor, name: str) -> Matrix:
    """Quantised; FP4 packed two codes a byte."""
    made = quantize(values, name)
    if made.format.element != "e2m1":
        return made
    packed = made.codes[..., ::2] | made.codes[..., 1::2] << 4
    return Packed(packed.contiguous(), made.scales, made.format)


def repeated(matrix: Matrix, count: int) -> Matrix:
    """One expert's weights [1, N, K] as those of `count`, each with its own memory."""
    if isinstance(matrix, torch.Tensor):
        return matrix.repeat(count, 1, 1)
    own = {"codes": matrix.codes, "scales": matrix.scales}
    return replace(matrix, **{n: t.repeat(count, 1, 1) for n, t in own.items()})


def bytes_of(matrix: Matrix) -> int:
    if isinstance(matrix, torch.Tensor):
        return matrix.nbytes
    return matrix.codes.nbytes + matrix.scales.nbytes


def floor(gemm: Gemm, peak: float) -> float:
    """Microseconds to read what is needed and to write the result, once."""
    used = int((gemm.offsets.diff() > 0).sum()) / gemm.w.shape[0]
    moved = bytes_of(gemm.w) * used + bytes_of(gemm.x) + gemm.empty().nbytes
    return moved / peak * 1e6


def check(
    place: Place, model: Model, formats: Formats | None, chosen: dict[str, Tactic]
) -> None:
    """Raise unless each tactic lies within the bounds, with the same bits as others."""
    cuts = (0, 300, 301, 301, 517) if place.large else (0, 30, 31, 31, 40)
    offsets = torch.tensor(cuts, device=place.device, dtype=torch.int32)
    rows, wide = cuts[-1] + 3, 2 * model.width
    x: Matrix = torch.randn(rows, model.hidden, device=place.device).to(BF16)
    w: Matrix = torch.randn(4, wide, model.hidden, device=place.device).to(BF16)
    exact, judged = x.double(), w
    if formats is not None:
        judged = quantize(w, formats[1])
        w = codes(w, formats[1])
        if formats[0] is not None:
            x = quantize(x, formats[0])
            exact = dequantize(x)
    tap = reference(bounds.exactly(exact), judged, offsets, Numerics())
    tap = bounds.rounded(tap, "fp32", Numerics())
    first = None
    gemm = Gemm(x, w, offsets, torch.float32)
    for name, tactic in chosen.items():
        poison = gemm.empty().fill_(torch.nan)
        del poison  # The result is likely to be allocated there.
        got = tensor_cores(gemm, tactic)
        inside(got, tap, name)
        first = got if first is None else first
        equal(got, first, f"{name} beside others")


def torch_experts(
    x: torch.Tensor, order: torch.Tensor, ends: torch.Tensor, up: torch.Tensor,
    down: torch.Tensor, k: int,
) -> torch.Tensor:  # fmt: skip
    """Gather, two `torch._grouped_mm` and SwiGLU; no weighted sum."""
    gate, lift = torch._grouped_mm(x[order // k], up.mT, ends).chunk(2, 1)
    hidden = torch.nn.functional.silu(gate) * lift
    return torch._grouped_mm(hidden, down.mT, ends)
