"""Layouts: bijections between canonical tensors and what kernels and checkpoints store.

Canonical is one code per element, gate rows before up rows, scales row by row. Each
family has a file; `LAYOUTS` names them all.
"""

from oracle.layouts.registry import LAYOUTS, Layout, get

__all__ = ["LAYOUTS", "Layout", "get"]
