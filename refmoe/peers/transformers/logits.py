"""Runs a router's own code on chosen logits instead of those of its linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _Answer(TorchFunctionMode):
    """Answers the next linear layer with `logits` in the type it would have returned.

    A bias is added as the layer would: to the fp32 (or fp64) sum, then rounded once.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.answered = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not torch.nn.functional.linear or self.answered:
            return func(*args, **(kwargs or {}))
        self.answered = True
        x, _, bias = (*args, None)[:3]
        if bias is None:
            return self.logits.to(x.dtype)
        wide = torch.promote_types(x.dtype, torch.float32)
        return (self.logits.to(wide) + bias.to(wide)).to(x.dtype)


@contextmanager
def injected(router: torch.nn.Module, logits: torch.Tensor) -> Iterator[None]:
    """While open, `router` sees `logits` [T, E] wherever it computes its own.

    Raises RuntimeError at the end if the router never asked for them.
    """
    mode = _Answer(logits)

    def enter(*_: object) -> None:
        mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: object) -> None:
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    hooks = (
        router.register_forward_pre_hook(enter),
        router.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not mode.answered:
        raise RuntimeError(f"{type(router).__name__} computed no logits")
