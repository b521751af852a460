"""An end that was asked for: after the present case, with what there is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupted(stop: Callable[[], None]) -> Iterator[None]:
    """Signals that ask for the end call `stop`; a second one ends it at once."""

    def asked(number: int, frame: FrameType | None) -> None:
        stop()
        signal.signal(number, old[signal.Signals(number)])

    numbers = (signal.SIGINT, signal.SIGTERM)
    old = {number: signal.signal(number, asked) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
