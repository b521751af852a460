"""Legitimate implementations of sums and dot products, and data that strain them.

Every simulator rounds the way some real kernel does: fp32 chains with or without fused
multiply-add, in any order, pairwise, blocked, split along K with fp32 or bf16 partial
sums; matrix units step by step (`oracle.accumulators`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from oracle.accumulators import accumulate
from oracle.formats import get, round_to
from oracle.numerics import ACCUMULATORS, Numerics
from oracle.trace import Tap

Tensor = torch.Tensor


@dataclass(frozen=True)
class Simulator:
    """An implementation: what it declares and how it computes x w^T."""

    name: str
    numerics: Numerics
    operands: str
    run: Callable[[Tensor, Tensor, torch.Generator], Tensor]

    def tap(self, values: Tensor) -> Tap:
        """An operand as an exact tap of the type it is stored in."""
        return Tap(values, least_normal=get(self.operands).least_normal)


def _shuffled(
    x: Tensor, w: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    order = torch.randperm(x.shape[1], generator=generator)
    return x[:, order], w[:, order]


def _sequential(x: Tensor, w: Tensor) -> Tensor:
    """fp32: every product rounded, then every sum."""
    x, w = x.float(), w.float()
    total = torch.zeros(x.shape[0], w.shape[0])
    for k in range(x.shape[1]):
        total = total + x[:, k, None] * w[:, k]
    return total.double()


def _fused(x: Tensor, w: Tensor) -> Tensor:
    return accumulate(x, w, ACCUMULATORS["ffma"])


def _pairwise(x: Tensor, w: Tensor) -> Tensor:
    """fp32 products, neighbours added until one is left."""
    terms = x.float()[:, None] * w.float()
    while terms.shape[-1] > 1:
        if terms.shape[-1] % 2:
            terms = torch.nn.functional.pad(terms, (0, 1))
        terms = terms[..., ::2] + terms[..., 1::2]
    return terms[..., 0].double()


def _blocked(x: Tensor, w: Tensor, size: int = 32) -> Tensor:
    """Chains of `size` products, summed one after the other: a vectorised CPU loop."""
    total = torch.zeros(x.shape[0], w.shape[0])
    for k in range(0, x.shape[1], size):
        part = slice(k, k + size)
        total = total + _sequential(x[:, part], w[:, part]).float()
    return total.double()


def _split(
    x: Tensor,
    w: Tensor,
    generator: torch.Generator,
    chain: Callable[[Tensor, Tensor], Tensor],
    splits: int,
    partial: str,
) -> Tensor:
    """`splits` chains over K, stored as `partial` and added up in any order."""
    parts = [
        round_to(chain(*piece), partial)
        for piece in zip(x.chunk(splits, 1), w.chunk(splits, 1), strict=True)
    ]
    total = torch.zeros_like(parts[0])
    for j in torch.randperm(len(parts), generator=generator).tolist():
        total = round_to(total + parts[j], partial)
    return total


def simulators() -> Iterator[Simulator]:
    """Every implementation that the bounds of its declaration must hold for."""
    fp32 = Numerics(accumulate="ffma")
    plain = {
        "sequential": _sequential,
        "fused": _fused,
        "pairwise": _pairwise,
        "blocked": _blocked,
    }
    for name, chain in plain.items():
        yield Simulator(name, fp32, "bf16", lambda x, w, g, c=chain: c(x, w))
        yield Simulator(
            f"{name}_shuffled", fp32, "fp32",
            lambda x, w, g, c=chain: c(*_shuffled(x, w, g)),
        )  # fmt: skip
    for splits, partial in ((2, "fp32"), (7, "fp32"), (4, "bf16"), (16, "bf16")):
        yield Simulator(
            f"split_{splits}_{partial}",
            fp32.but(split_k=splits, partial=partial), "bf16",
            lambda x, w, g, s=splits, p=partial: _split(x, w, g, _fused, s, p),
        )  # fmt: skip
    operands = {
        "hmma_volta": "fp16", "qmma_ada": "e4m3", "qgmma_hopper": "e4m3",
        "qgmma_hopper_promoted": "e4m3", "tcgen05_fp8": "e5m2",
    }  # fmt: skip
    for name, unit in ACCUMULATORS.items():
        kind = operands.get(name, "fp16" if name == "fp16" else "bf16")
        if name in ("fp64", "int32", "tcgen05_fp4"):
            continue
        yield Simulator(
            name, Numerics(accumulate=name), kind,
            lambda x, w, g, u=unit, f=kind: accumulate(
                *_shuffled(x, w, g), u, formats=(f, f)
            ),
        )  # fmt: skip
    hopper = ACCUMULATORS["hmma_hopper"]
    yield Simulator(
        "hmma_hopper_split_4_bf16",
        Numerics(accumulate="hmma_hopper", split_k=4, partial="bf16"), "bf16",
        lambda x, w, g: _split(
            x, w, g, lambda a, b: accumulate(a, b, hopper), 4, "bf16"
        ),
    )  # fmt: skip


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def data(
    kind: str,
    rows: int,
    width: int,
    depth: int,
    operands: str,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Operands x [rows, depth] and w [width, depth] of one kind, in a format's values.

    Mixed signs, one sign, sums that cancel, one term that dwarfs the others, heavy
    tails, powers of two of any exponent, tiny results, mostly zeros.
    """
    x, w = _normal((rows, depth), generator), _normal((width, depth), generator)
    entry = get(operands)
    if kind == "same_sign":
        x, w = x.abs(), w.abs()
    elif kind == "cancelling":
        half = depth // 2
        w[:, half : 2 * half] = -w[:, :half]
        x[:, half : 2 * half] = x[:, :half] * (1 + 2.0**-6 * x[:, half : 2 * half])
    elif kind == "one_huge":
        place = torch.randint(depth, (rows,), generator=generator)
        x[torch.arange(rows), place] = min(entry.maximum / 4, 2.0**12)
    elif kind == "heavy":
        x, w = (t * torch.exp(2.0 * _normal(t.shape, generator)) for t in (x, w))
    elif kind == "powers":
        spread = min(20, entry.maximum_exponent // 2)
        x, w = (
            t.sign() * torch.exp2(torch.round(spread / 3 * _normal(t.shape, generator)))
            for t in (x, w)
        )
    elif kind == "tiny":
        # Products below fp32's least normal value, or as small as the format gets.
        x, w = (t * max(2.0**-64, entry.quantum * 4) for t in (x, w))
    elif kind == "sparse":
        w = w * (torch.rand(w.shape, generator=generator) < 4 / depth)
        x = x * torch.exp2(torch.randint(-9, 3, x.shape, generator=generator).double())
    x, w = (t.clamp(-entry.maximum / 8, entry.maximum / 8) for t in (x, w))
    return round_to(x, operands), round_to(w, operands)


KINDS = (
    "normal", "same_sign", "cancelling", "one_huge", "heavy", "powers", "tiny",
    "sparse",
)  # fmt: skip
