"""Honest ports that are called in other ways: prepared, into a buffer, by tactic."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from oracle.params import Params
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.honest.orders import split
from refmoe.gallery.plain import Plain
from refmoe.gallery.plain.arithmetic import Tensor

honest = decorator("honest")


def _unpacked(params: Params, layer: Layer) -> Params:
    """Weights in float32, whatever they were."""
    plain = Plain()
    return replace(
        params, gate_up=plain.unpacked(params.gate_up), down=plain.unpacked(params.down)
    )


@honest("moe", attributes={"prepare": _unpacked})
def prepared_weights(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    prepared: Params,
    token_ids: Tensor | None = None,
) -> Tensor:
    """Weights are unpacked once, before the first call."""
    out: Tensor = stage.honest(x, logits, prepared, layer, token_ids=token_ids)
    return out


@honest("moe")
def into_a_buffer(
    stage: Stage,
    x: Tensor,
    logits: Tensor,
    params: Params,
    layer: Layer,
    *,
    out: Tensor,
    token_ids: Tensor | None = None,
) -> None:
    """The output goes where the caller says."""
    out.copy_(stage.honest(x, logits, params, layer, token_ids=token_ids))


def _two_tactics(case: Case) -> tuple[int, int]:
    return 2, 4


@honest("grouped_gemm", attributes={"tactics": _two_tactics})
def tactics(
    stage: Stage, x: Tensor, weights: object, offsets: Tensor, *, tactic: int = 2
) -> Tensor:
    """K is split in two or in four, as the tactic says."""
    port = Plain(stage.port.numerics)
    port.matmul = partial(_in_parts, tactic)  # type: ignore[method-assign]
    return port.grouped_gemm(x, weights, offsets)


def _in_parts(parts: int, x: Tensor, weight: Tensor) -> Tensor:
    return torch.stack(split(x, weight, parts)).sum(0)
