"""Which architectures of a campaign this machine can execute."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch


def present() -> int | None:
    """The compute capability of the GPU, as 90; None without one."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def divided(
    archs: Sequence[str],
    device: int | None,
    *,
    chosen: bool = False,
    emulated: Collection[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those whose code is executed, on `device` or emulated, and those never.

    Ports whose code can be `chosen` run that of every earlier GPU too; code for sm_90a
    runs on that one alone. Others have only what `device` itself takes.

    >>> divided(("sm_80", "sm_90", "sm_90a", "sm_100a"), 90, chosen=True)
    (('sm_80', 'sm_90', 'sm_90a'), ('sm_100a',))

    Raises ValueError for a text that names no architecture.
    """
    runs: list[str] = []
    never: list[str] = []
    for arch in archs:
        found = re.fullmatch(r"sm_(\d{2,3})([af]?)", arch)
        if found is None:
            raise ValueError(f"{arch!r} is no architecture; write for example sm_90a")
        number, own = int(found[1]), bool(found[2])
        if device is None:
            fits = arch in emulated
        else:
            fits = number == device or (chosen and not own and number < device)
        (runs if fits else never).append(arch)
    return tuple(runs), tuple(never)
