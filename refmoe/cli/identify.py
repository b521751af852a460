"""`refmoe identify`: the arithmetic of a black box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def identify_command(
    port: Annotated[
        str, typer.Argument(help="package.module or package.module:object")
    ],
    evidence: Annotated[
        bool, typer.Option("--evidence", help="show the evidence of every field")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write everything found here")
    ] = None,
) -> None:
    """Find a port's arithmetic by experiment: a Numerics to paste, with its evidence.

    Status 1: the port declares what an experiment refutes.
    """
    raise typer.Exit(run_identify(port, evidence, json))


def run_identify(name: str, evidence: bool, out: Path | None) -> int:
    """`refmoe identify`; returns the exit status."""
    from json import dumps

    import torch

    from refmoe.cli.commands import usage
    from refmoe.identify import identify
    from refmoe.loading import load
    from refmoe.report import identified, terminal
    from refmoe.report.files import check_writable

    # The calls are small: sharing one among threads costs more than it saves.
    torch.set_num_threads(1)
    console = terminal.console_for()
    with usage():
        check_writable(out)
        port = load(name)
        port.check_device()
    found = identify(port)
    for line in identified.text(found, evidence=evidence):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        with usage():
            out.write_text(dumps(found.document(), indent=1) + "\n")
    if found.contradictions:
        return 1
    return 0 if found.evidence else 3
