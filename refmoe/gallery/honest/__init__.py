"""Legitimately different implementations: none may ever be called WRONG."""

from __future__ import annotations

from refmoe.gallery.entry import collected, ports
from refmoe.gallery.honest import calls, functions, orders, policies, roundings, units

ENTRIES = collected(orders, units, roundings, functions, policies, calls)

#: `refmoe.gallery.honest:NAME` loads a new port of that entry.
__getattr__ = ports(ENTRIES)
