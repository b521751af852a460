"""Which architectures of a campaign this machine can execute."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch


def present() -> int | None:
    """The compute capability of the GPU, as 90; None without one."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return major * 10 + minor


def divided(
    archs: Sequence[str], device: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those whose code `device` executes, and those that it does not.

    Code for sm_80 runs on every later GPU, code for sm_90a on that one alone.

    >>> divided(("sm_80", "sm_89", "sm_90a", "sm_100a"), 90)
    (('sm_80', 'sm_89', 'sm_90a'), ('sm_100a',))

    Raises ValueError for a text that names no architecture.
    """
    runs: list[str] = []
    never: list[str] = []
    for arch in archs:
        found = re.fullmatch(r"sm_(\d{2,3})([af]?)", arch)
        if found is None:
            raise ValueError(f"{arch!r} is no architecture; write for example sm_90a")
        number, own = int(found[1]), bool(found[2])
        fits = device is not None and (number == device if own else number <= device)
        (runs if fits else never).append(arch)
    return tuple(runs), tuple(never)
