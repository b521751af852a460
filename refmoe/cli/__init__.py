"""The command `refmoe`."""

from __future__ import annotations


def main() -> None:
    """Run the command line; typer and rich are imported here, not with the package."""
    from refmoe.cli.app import app

    app(prog_name="refmoe")
