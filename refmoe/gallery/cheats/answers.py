"""Cheats that answer without looking: constants, their own input, another type."""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from oracle.numerics import Elementary, Numerics
from oracle.params import Params
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

cheat = decorator("cheat")


@cheat("moe")
def zeros(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Nothing is computed."""
    return torch.zeros_like(x)


@cheat("moe")
def nothing_written(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    out: Tensor,
) -> None:
    """The output buffer is left alone, in the hope that it is clean."""


@cheat("moe")
def nan_everywhere(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """NaN, which some comparisons take for a match."""
    return torch.full_like(x, torch.nan)


@cheat("moe")
def infinities(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Infinity, against which every error is relatively small."""
    return torch.full_like(x, torch.inf)


@cheat("moe")
def its_own_input(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """x itself."""
    return x


@cheat("moe")
def one_row_for_all(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The first token is computed and shown as every token."""
    first = stage.honest(x[:1], logits[:1], params, layer)
    return first.expand_as(x) if len(x) else stage(x, logits, params, layer)


@cheat("moe")
def another_shape(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """One number, which broadcasts to every shape."""
    return torch.zeros((), dtype=x.dtype)


@cheat("moe")
def another_type(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Float64, in which nothing was computed."""
    return torch.zeros(x.shape, dtype=torch.float64)


@cheat("moe")
def refuses_everything(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """No case is good enough."""
    raise NotImplementedError("this size is not supported yet")


@cheat("moe")
def leaves(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The process is asked to end well."""
    sys.exit(0)


def _empty_only(case: Case) -> bool:
    return case.T == 0


@cheat("moe", attributes={"supports": _empty_only})
def supports_nothing_but_nothing(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Only batches without tokens are supported, and those are right."""
    return torch.zeros_like(x)


_ANYTHING = Elementary(relative=1e30, absolute=1e30)


@cheat("moe", numerics=Numerics(sigmoid=_ANYTHING))
def declares_any_error(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """A sigmoid that may return anything makes every output legitimate."""
    return torch.zeros_like(x)


def _nothing(layer: Layer) -> Layer:
    routing = replace(layer.routing, scale=0.0, scale_on="weights")
    return replace(layer, routing=routing, shared=None)


@cheat("moe", declares=_nothing)
def declares_nothing_to_compute(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The layer that it claims to compute is zero."""
    return torch.zeros_like(x)
