"""Which architectures of a campaign this machine can execute."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from refmoe.campaign.plan import Hosting


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


@dataclass(frozen=True, slots=True)
class Scouted:
    """Of the architectures asked for: those that run, without a GPU too, and never."""

    runs: tuple[str, ...] = ()
    emulated: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


def scouted(
    hosting: Hosting, names: Sequence[str], ops: Sequence[str], archs: Sequence[str]
) -> Scouted:
    """Load the ports, and divide the architectures by what they and the GPU offer.

    Raises ValueError, TypeError or ImportError where a port cannot be loaded,
    ValueError for an op that none has.
    """
    with hosting.opened() as (_, load):
        ports = load(names)
    offered = {op: None for port in ports for op in port.ops}
    for op in ops:
        if op not in offered:
            there = ", ".join(offered)
            raise ValueError(f"--op {op}: no port has it; there is {there}")
    if not archs:
        return Scouted()
    device = present()
    emulated = set.intersection(*(set(port.get("emulates", ())) for port in ports))
    chosen = all(port.get("on_arch") for port in ports)
    runs, never = divided(archs, device, chosen=chosen, emulated=emulated)
    return Scouted(runs, runs if device is None else (), never)
