"""Honest dot products: float32, each in another order of additions."""

from __future__ import annotations

import torch

from oracle.numerics import Numerics
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

honest = decorator("honest")

_FFMA = Numerics(accumulate="ffma")


def products(x: Tensor, weight: Tensor) -> Tensor:
    """All products [R, N, K], each rounded."""
    return x[:, None, :] * weight[None, :, :]


@honest("matmul", numerics=_FFMA)
def sequential(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """From the first product to the last, one after the other."""
    total = x.new_zeros(len(x), len(weight))
    for k in range(x.shape[1]):
        total += x[:, k, None] * weight[:, k]
    return total


@honest("matmul", numerics=_FFMA)
def reversed_order(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """From the last product to the first."""
    return sequential_sum(products(x, weight).flip(-1))


@honest("matmul", numerics=_FFMA)
def shuffled(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """In an order drawn anew for every call."""
    order = stage.memory.setdefault("order", torch.Generator().manual_seed(0))
    return sequential_sum(
        products(x, weight)[..., torch.randperm(x.shape[1], generator=order)]
    )


@honest("matmul", numerics=_FFMA)
def fused(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """One after the other, products not rounded before they are added."""
    total = torch.zeros(len(x), len(weight))
    x, weight = x.double(), weight.double()
    for k in range(x.shape[1]):
        total = (total.double() + x[:, k, None] * weight[:, k]).float()
    return total


@honest("matmul", numerics=_FFMA)
def pairwise(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """A balanced tree."""
    return tree_sum(products(x, weight))


@honest("matmul")
def lanes(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Thirty-two lanes with every thirty-second product, then a tree over the lanes."""
    terms = products(x, weight)
    terms = torch.nn.functional.pad(terms, (0, -terms.shape[-1] % 32))
    steps = terms.reshape(*terms.shape[:-1], terms.shape[-1] // 32, 32)
    return tree_sum(sequential_sum(steps.movedim(-2, -1)))


@honest("matmul")
def blocked(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Tiles of 48 along K, the tiles one after the other."""
    total = x.new_zeros(len(x), len(weight))
    for k in range(0, x.shape[1], 48):
        total += x[:, k : k + 48] @ weight[:, k : k + 48].T
    return total


@honest("matmul")
def compensated(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Kahan's sum, which loses next to nothing."""
    total = x.new_zeros(len(x), len(weight))
    lost = torch.zeros_like(total)
    for k in range(x.shape[1]):
        term = x[:, k, None] * weight[:, k] - lost
        moved = total + term
        # Inf less Inf would be NaN.
        lost = ((moved - total) - term).where(moved.isfinite(), 0.0)
        total = moved
    return total


@honest("matmul", numerics=Numerics(split_k=4))
def split_k(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Four partial sums in float32, the last ones first."""
    parts = split(x, weight)
    return parts[3] + parts[2] + parts[1] + parts[0]


@honest("matmul", numerics=Numerics(split_k=4, partial="bf16"))
def split_k_in_bf16(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """Four partial sums stored in bf16, then added in float32."""
    return sequential_sum(
        torch.stack([part.bfloat16().float() for part in split(x, weight)], -1)
    )


def split(x: Tensor, weight: Tensor, parts: int = 4) -> list[Tensor]:
    """Partial sums over quarters of K."""
    size = -(-x.shape[1] // parts)
    starts = [part * size for part in range(parts)]
    return [x[:, k : k + size] @ weight[:, k : k + size].T for k in starts]


def sequential_sum(terms: Tensor) -> Tensor:
    """The sum over the last axis, one after the other."""
    total = torch.zeros(terms.shape[:-1])
    for k in range(terms.shape[-1]):
        total = total + terms[..., k]
    return total


def tree_sum(terms: Tensor) -> Tensor:
    """The sum over the last axis by halves."""
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        odd = terms[..., 2 * half :]
        terms = torch.cat([terms[..., :half] + terms[..., half : 2 * half], odd], -1)
    return terms[..., 0]
