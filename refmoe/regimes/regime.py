"""What a regime is: one way to draw every value that a problem needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from oracle.formats import get, round_to
from oracle.params import Weight
from oracle.spec import BlockFormat, Layer
from refmoe.case import Case
from refmoe.generator import Stream

TORCH = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a regime draws from: the case, its layer and a stream per name."""

    case: Case
    layer: Layer
    #: i64[T, k], the experts that the case's load gives to each token.
    ids: torch.Tensor

    def stream(self, name: str) -> Stream:
        """The case's stream called `name`."""
        return Stream(self.case.seed, name)


def plain(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """f64 values rounded to the nearest value of a plain type, as a tensor of it.

    Its NaN take turns in how they are spelt: quiet, with the first bit or all bits of a
    significand, of either sign (that of 0 / 0 is negative on many a CPU).
    """
    made = round_to(values, dtype).to(TORCH[dtype])
    nan = made.isnan()
    if not bool(nan.any()):
        return made
    bits, entry = made.view(_BITS[made.dtype.itemsize]), get(dtype)
    infinity = torch.full((), torch.inf, dtype=made.dtype).view(bits.dtype)
    payloads = (1 << (entry.mantissa - 1), 1, (1 << entry.mantissa) - 1)
    spelt = infinity + torch.tensor(payloads, dtype=bits.dtype)
    spelt = torch.cat((spelt, spelt + torch.iinfo(bits.dtype).min))
    turn = nan.flatten().cumsum(0).reshape(nan.shape) % len(spelt)
    return torch.where(nan, spelt[turn], bits).view(made.dtype)


@dataclass(frozen=True, slots=True)
class Regime:
    """How values are drawn; `dataclasses.replace` makes a new regime from another.

    Shapes:
        tokens(source, name, rows, columns) -> f64[rows, columns], activations
        logits(source) -> f64[T, columns of the logits]
        weight(source, name, shape, format) -> a tensor or Blocks of that shape
        bias(source, name, shape) -> f64[shape], of experts
        router_bias(source) -> f64[E]
        gate_up(source, rows) -> f64[rows, 2I], where GEMM1 is not part of the op
        weights(source) -> f64[T, k], where the router is not part of the op
        expert_scale(source) -> f64[E]
    """

    name: str
    about: str
    #: The class of bugs that stays unseen without this regime.
    bug: str
    tokens: Callable[[Source, str, int, int], torch.Tensor]
    logits: Callable[[Source], torch.Tensor]
    weight: Callable[[Source, str, tuple[int, ...], str | BlockFormat], Weight]
    bias: Callable[[Source, str, tuple[int, ...]], torch.Tensor]
    router_bias: Callable[[Source], torch.Tensor]
    gate_up: Callable[[Source, int], torch.Tensor]
    weights: Callable[[Source], torch.Tensor]
    expert_scale: Callable[[Source], torch.Tensor]
    #: Ops that a run confines the regime to unless it is asked for; empty: none.
    suits: tuple[str, ...] = ()
