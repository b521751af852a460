"""A black box's arithmetic, found by experiment.

Every experiment calls the port's own ops on numbers made so that each arithmetic that
is known returns other bits, and keeps the ones that explain what came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from oracle.numerics import Numerics
from refmoe.identify import arithmetic, others
from refmoe.identify.box import Box, Run
from refmoe.identify.identified import Evidence, Identified, Open
from refmoe.identify.laboratory import Laboratory
from refmoe.port import Port
from refmoe.runner import run

__all__ = ["FAMILIES", "Evidence", "Identified", "Open", "identify"]


#: The experiments by what they are about, in this order: later ones use what earlier
#: ones found.
FAMILIES: dict[str, Callable[[Laboratory], None]] = {
    "arithmetic": arithmetic.experiments,
    "routing": others.routing,
    "quantisers": others.quantisers,
    "calls": others.calls,
}


def identify(
    port: Port, *, families: Sequence[str] = tuple(FAMILIES), run: Run = run
) -> Identified:
    """What the port's ops compute in, the evidence, and what stays open.

    `run` calls the port; the default does so in this process. `families` narrows the
    experiments to some of FAMILIES.
    """
    start = time.perf_counter()
    lab = Laboratory(Box(port, run))
    for name in FAMILIES:
        if name in families:
            FAMILIES[name](lab)
    return Identified(
        port.name, _numerics(lab), tuple(lab.evidence), tuple(lab.open),
        lab.box.calls, time.perf_counter() - start,
    )  # fmt: skip


def _numerics(lab: Laboratory) -> Numerics:
    """The declaration (or the default) with everything that the experiments refute
    replaced, and with what they found where nothing is declared."""
    port = lab.box.port
    start = port.numerics if port.declared else Numerics()
    names = {entry.name for entry in fields(Numerics)}
    changes: dict[str, Any] = {
        item.field: item.value
        for item in lab.evidence
        if item.field in names and item.status in ("contradicts", "observed", "wider")
    }
    return start.but(**changes)
