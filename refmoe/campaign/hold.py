"""A state folder is one command's at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILE = "running"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within it, `folder` is this process' own; it is given back however this ends.

    Forks do not hold it: what a killed command leaves behind ends by itself.

    Raises ValueError naming the process that has it.
    """
    file = os.open(folder / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            other = os.read(file, 20).decode(errors="replace").strip()
            raise ValueError(
                f"{folder} is being worked on by process {other}; wait for its end, or "
                "name another --state"
            ) from None
        os.ftruncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(file)
