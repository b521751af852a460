"""Which GPU's code the kernels run: where it differs, each text holds all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "REFMOE_TARGET"


@contextmanager
def on_arch(arch: str) -> Iterator[None]:
    """Within it, kernels are compiled and loaded for `arch`, as sm_80.

    Code for one GPU alone (sm_90a) is compiled to its instructions; the driver
    translates the other to those of the GPU at hand.
    """
    before = os.environ.get(_VARIABLE)
    own = arch.endswith(("a", "f"))
    os.environ[_VARIABLE] = arch if own else arch.replace("sm_", "compute_")
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
