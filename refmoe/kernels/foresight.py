"""What a call will launch, told beforehand, so that it compiles side by side.

A call of many kernels would compile them one after the other, each as it is met. So
when the first is not on disk, the op runs once more on tensors without memory (those of
PyTorch's meta device), where a launch merely notes its kernel; then all that are
missing compile at once. What is not foreseen compiles when it is met.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import torch

from refmoe.kernels import cache, launch, loader
from refmoe.kernels.arguments import Argument
from refmoe.kernels.launchers.formats import VECTOR

#: Threads that compile at once, at most: the machine is not the call's alone.
_SIDE_BY_SIDE = 8
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class _Noting:
    """A backend for tensors without memory: it runs nothing and notes the kernels."""

    compiled_for: str
    kernels: dict[launch.Kernel, None] = field(default_factory=dict)
    kind: str = "meta"

    def target(self, device: torch.device) -> str:
        return self.compiled_for

    def run(
        self, kernel: launch.Kernel, grid: launch.Size, block: launch.Size,
        arguments: Sequence[Argument], shared: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.kernels[kernel] = None


def foreseen(op: Callable[P, R]) -> Callable[P, R]:
    """`op`, whose kernels compile together when the first is not on disk.

    Within a call that foresees already, it is part of that.
    """

    @wraps(op)
    def call(*arguments: P.args, **keywords: P.kwargs) -> R:
        if loader.ahead.get() is not None:
            return op(*arguments, **keywords)
        token = loader.ahead.set(partial(compile_ahead, op, arguments, keywords))
        try:
            return op(*arguments, **keywords)
        finally:
            loader.ahead.reset(token)

    return call


def kernels(
    op: Callable[..., object], arguments: tuple[Any, ...], keywords: dict[str, Any],
    target: str,
) -> tuple[launch.Kernel, ...]:  # fmt: skip
    """What a call of `op` launches, in its order; nothing is read or computed.

    Ends where values are read back. A function among the arguments, a GEMM of someone
    else's say, is never called: nothing is foreseen then.
    """
    noting = _Noting(target)
    # What is wrong with the arguments the call itself will tell.
    with launch.through(noting), suppress(Exception):
        given = {name: _bare(value) for name, value in keywords.items()}
        op(*map(_bare, arguments), **given)
    return tuple(noting.kernels)


def computed(
    compute: Callable[[], torch.Tensor], like: torch.Tensor, shape: Sequence[int],
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """What PyTorch computes; of tensors without memory, as `like`, another such.

    On the meta device its arithmetic would load its compiler, which takes a second.
    """
    if like.is_meta:
        return torch.empty(shape, dtype=dtype, device=like.device)
    return compute()


def compile_ahead(
    op: Callable[..., object], arguments: tuple[Any, ...], keywords: dict[str, Any],
    target: str,
) -> None:  # fmt: skip
    """Compile, side by side, what a call of `op` launches and the disk has not."""

    def build(kernel: launch.Kernel) -> None:
        # An error is told when the call meets the kernel, if it does.
        with suppress(Exception):
            cache.fetch(kernel.file, (kernel.expression,), target)

    missing = [
        kernel
        for kernel in kernels(op, arguments, keywords, target)
        if loader.find(kernel.file, kernel.expression, target) is None
    ]
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(min(cores, _SIDE_BY_SIDE)) as pool:
        # The GEMMs take longest and stand at the end of a call: they start first.
        pool.map(build, reversed(missing))


def _bare(value: Any) -> Any:
    """`value` with its tensors on the meta device, as far from 16 bytes as they are."""
    if isinstance(value, torch.Tensor):
        behind = value.data_ptr() % VECTOR // value.itemsize
        size = behind + value.numel()
        room = torch.empty(size, dtype=value.dtype, device="meta")
        return room[behind:].view(value.shape)
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: getattr(value, each.name) for each in fields(value)}
        bare = {name: _bare(item) for name, item in own.items()}
        other = {name: item for name, item in bare.items() if item is not own[name]}
        return replace(value, **other) if other else value
    if callable(value):
        raise TypeError(f"{value!r} may do anything")
    return value
