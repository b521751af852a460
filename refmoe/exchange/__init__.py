"""Problems as files: for implementations that are not Python, and to hand on."""

from __future__ import annotations
