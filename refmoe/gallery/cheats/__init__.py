"""Ways of passing without computing: each must be caught."""

from __future__ import annotations

from refmoe.gallery.cheats import answers, caches, tampering
from refmoe.gallery.entry import collected, ports

ENTRIES = collected(answers, caches, tampering)

#: `refmoe.gallery.cheats:NAME` loads a new port of that entry.
__getattr__ = ports(ENTRIES)
