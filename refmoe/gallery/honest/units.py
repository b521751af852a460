"""Honest dot products of matrix units that align products and cut them."""

from __future__ import annotations

import torch

from oracle.numerics import PRESETS, Numerics
from oracle.spec import BlockFormat
from refmoe.case import Case
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

honest = decorator("honest")


def aligned(
    x: Tensor, weight: Tensor, terms: int, fraction: int, kept: int = 23
) -> Tensor:
    """x weight^T in steps of `terms` products and the sum so far.

    Each step shifts its terms to the largest exponent among them, drops what falls
    behind `fraction` bits, and keeps `kept` bits of the sum, cut as well.
    """
    total = torch.zeros(len(x), len(weight), dtype=torch.float64)
    x, weight = x.double(), weight.double()
    for k in range(0, x.shape[1], terms):
        a, b = x[:, None, k : k + terms], weight[None, :, k : k + terms]
        product = a * b
        exponent = _exponent(a) + _exponent(b)
        exponent = exponent.masked_fill(product == 0, -400)
        largest = torch.maximum(exponent.amax(-1), _exponent(total))
        grain = torch.exp2((largest.clamp(min=-132) - fraction).double())
        step = (product / grain[..., None]).trunc().sum(-1) + (total / grain).trunc()
        total = step * grain
        last = torch.exp2((_exponent(total).clamp(min=-126) - kept).double())
        total = (total / last).trunc() * last
    return total.float()


def _exponent(values: Tensor) -> Tensor:
    """floor(log2 |v|), and far below everything for zero."""
    return (torch.frexp(values).exponent - 1).masked_fill(values == 0, -400)


@honest("matmul", numerics=Numerics(accumulate="hmma_volta"))
def volta(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """V100: four products a step."""
    return aligned(x, weight, 4, 23)


@honest("matmul", numerics=Numerics(accumulate="hmma_ampere"))
def ampere(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """A100: eight products a step, one more bit."""
    return aligned(x, weight, 8, 24)


@honest("matmul", numerics=Numerics(accumulate="hmma_hopper"))
def hopper(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """H100: sixteen products a step, two more bits."""
    return aligned(x, weight, 16, 25)


@honest("matmul")
def any_tensor_core(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """H100 under the default declaration, which leaves the unit open."""
    return aligned(x, weight, 16, 25)


def _fp8_layers(case: Case) -> bool | str:
    form = case.layer.activations
    narrow = isinstance(form, BlockFormat) and form.element in ("e4m3", "e5m2")
    return narrow or "the unit multiplies FP8 only"


@honest(
    "matmul",
    numerics=PRESETS["deepseek_v4"],
    attributes={"supports": _fp8_layers},
    models=("deepseek-v3", "deepseek-v4-flash"),
)
def hopper_fp8(stage: Stage, x: Tensor, weight: Tensor) -> Tensor:
    """H100 in FP8: fourteen bits, promoted to float32 every 128 products.

    Codes have four bits: a product that stands alone loses none of its eight.
    """
    total = torch.zeros(len(x), len(weight))
    for k in range(0, x.shape[1], 128):
        a, b = x[:, k : k + 128], weight[:, k : k + 128]
        alone = (a != 0).double() @ (b != 0).double().T <= 1
        whole = (a.double() @ b.double().T).float()
        total += torch.where(alone, whole, aligned(a, b, 32, 13, 13))
    return total
