"""Cheats that work on the judge instead of on the problem.

Some of these change the process that they run in: run them in one of their own.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import torch

from oracle.params import Params
from oracle.spec import Layer
from oracle.trace import Trace
from refmoe.gallery.entry import Stage, decorator
from refmoe.gallery.plain.arithmetic import Tensor

cheat = decorator("cheat")
#: Entries that leave their mark on the process.
CONTAMINATING = (
    "patches_subtraction", "patches_comparisons", "patches_the_judge",
    "patches_the_status", "ends_the_process", "overwrites_the_problem",
)  # fmt: skip


@cheat("moe")
def overwrites_its_inputs(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """x is set to zero, so that zero is right."""
    x.zero_()
    return torch.zeros_like(x)


@cheat("moe")
def overwrites_its_weights(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The weights are set to zero, so that zero is right."""
    _clear(params)
    return torch.zeros_like(x)


def _clear(params: Params) -> None:
    for name in ("down", "down_bias", "shared_down"):
        tensor = getattr(params, name)
        if tensor is not None:
            getattr(tensor, "codes", tensor).zero_()


@cheat("moe")
def overwrites_the_problem(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The caller's own weights are found in its frames, and set to zero as well."""
    frame: Any = sys._getframe()
    while frame is not None:
        problem = frame.f_locals.get("problem")
        if hasattr(problem, "params"):
            _clear(problem.params)
        frame = frame.f_back
    _clear(params)
    return torch.zeros_like(x)


@cheat("moe")
def looks_for_the_answer(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Any trace of the oracle in memory whose output has the right shape."""
    for item in gc.get_objects():
        if type(item) is Trace and "out" in item:
            value = item["out"].value
            if value.shape == x.shape:
                return value.to(x.dtype)
    return torch.zeros_like(x)


def _patch(owner: Any, name: str, value: Any) -> None:
    setattr(owner, name, value)


class Agreeable(torch.Tensor):
    """A tensor that equals whatever it is compared with."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """The other operand, where there is one."""
        plain = [
            item
            for item in arguments
            if isinstance(item, torch.Tensor) and not isinstance(item, cls)
        ]
        if plain and function.__name__ in ("sub", "__sub__", "eq", "__eq__", "ne"):
            return function(plain[0], plain[0])
        inherited: Any = super().__torch_function__
        return inherited(function, types, arguments, keywords or {})


@cheat("moe")
def agreeable_tensor(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """Zeros of a type whose difference from anything is zero."""
    return torch.zeros_like(x).as_subclass(Agreeable)


@cheat("moe")
def patches_subtraction(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """From now on all differences are zero."""
    _patch(torch.Tensor, "__sub__", lambda self, other: torch.zeros_like(self))
    return torch.zeros_like(x)


@cheat("moe")
def patches_comparisons(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """From now on everything is equal, close, and of no size."""
    for name in ("equal", "allclose"):
        _patch(torch, name, lambda *operands, **rest: True)
    _patch(torch.Tensor, "abs", lambda self: torch.zeros_like(self))
    return torch.zeros_like(x)


@cheat("moe")
def patches_the_judge(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The judge is replaced by one that is content."""
    from refmoe import verify
    from refmoe.judge import Judgement
    from refmoe.verdict import Kind, Verdict

    content = Judgement(Verdict(Kind.BIT_EQUAL, "out"))
    _patch(verify, "judge", lambda *arguments, **keywords: content)
    return torch.zeros_like(x)


@cheat("moe")
def patches_the_status(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """No verdict counts as a failure any more."""
    from refmoe.verdict import Kind

    _patch(Kind, "failed", property(lambda self: False))
    return torch.zeros_like(x)


@cheat("moe")
def ends_the_process(
    stage: Stage, x: Tensor, logits: Tensor, params: Params, layer: Layer
) -> Tensor:
    """The process ends with status 0 before anyone can judge."""
    os._exit(0)
