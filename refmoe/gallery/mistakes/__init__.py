"""Real bugs in miniature: each must be caught.

They come from public issues of serving systems and kernel libraries (`reference`), and
from the neighbourhood of those. An entry emulates the reported cause, not the kernel.
"""

from __future__ import annotations

from refmoe.gallery.entry import collected, ports
from refmoe.gallery.mistakes import (
    activation,
    bias,
    dispatch,
    layout,
    memory,
    omni,
    operands,
    overflow,
    permutation,
    placement,
    precision,
    quantisation,
    selection,
    state,
    weights,
)

ENTRIES = collected(
    selection, weights, placement, activation, bias, quantisation, layout,
    permutation, dispatch, overflow, memory, state, precision, operands, omni,
)  # fmt: skip

#: `refmoe.gallery.mistakes:NAME` loads a new port of that entry.
__getattr__ = ports(ENTRIES)
