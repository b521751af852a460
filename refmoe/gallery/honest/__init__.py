"""Legitimately different implementations: none may ever be called WRONG."""

from __future__ import annotations

from refmoe.gallery.entry import collected, ports
from refmoe.gallery.honest import functions, orders, policies, roundings, units

ENTRIES = collected(orders, units, roundings, functions, policies)

#: `refmoe.gallery.honest:NAME` loads a new port of that entry.
__getattr__ = ports(ENTRIES)
