"""Implementations that prove the judge: honest ones, mistakes and cheats.

Every entry is a port: ``refmoe verify refmoe.gallery.mistakes:no_clamp``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refmoe.gallery.entry import Entry

ROOMS = {"honest": "honest", "mistake": "mistakes", "cheat": "cheats"}


def entries(kind: str) -> dict[str, Entry]:
    """The entries of one kind by name: honest, mistake or cheat.

    >>> entries("mistake")["no_clamp"].about
    'The limit is dropped.'

    Raises ValueError for another kind.
    """
    if kind not in ROOMS:
        known = ", ".join(repr(name) for name in ROOMS)
        raise ValueError(f"entries: kind={kind!r} is unknown; use one of {known}")
    found: dict[str, Entry] = import_module(f"{__name__}.{ROOMS[kind]}").ENTRIES
    return found
