"""What a test file says: judge these ops of this port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Suite:
    """Tests of a port, collected by the plugin from a module-level name `test_...`.

        test_my_port = Suite("my_port")

    `port` is a module's name, a module, an object or a function. One test for each op,
    model or format, and regime, with as many cases as the profile says. What stays
    empty is chosen by the run: the port of REFMOE_IMPL, every op, the models, formats
    and regimes of the options, else the default ones.
    """

    port: Any = None
    ops: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()
