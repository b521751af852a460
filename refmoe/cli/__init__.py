"""The command `refmoe`."""

from __future__ import annotations

import os
from collections.abc import Callable


def main() -> None:
    """Run the command line; typer and rich are imported here, not with the package."""
    # Threads that numpy's BLAS would start keep a process from being forked.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from refmoe.cli.app import app
    from refmoe.cli.files import writing
    from refmoe.cli.fuzz import campaigning
    from refmoe.cli.score import score

    commands: tuple[Callable[..., None], ...] = (*writing, *campaigning, score)
    for command in commands:
        app.command()(command)
    app(prog_name="refmoe")
