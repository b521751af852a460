"""`refmoe score`: how good the judge is."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from refmoe.score.document import Score
    from refmoe.score.make import Wanted


def score(
    mutants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MUTANT]...", help="of the gallery; else all"),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="kills, matrix, power, rules, honest; repeatable, else all"),
    ] = None,
    property_: Annotated[
        list[str] | None,
        typer.Option("--property", help="only this, as regime:randn; repeatable"),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="32 cases of each property, not 4")
    ] = False,
    honest: Annotated[
        int, typer.Option(min=1, metavar="CASES", help="decided cases of honest ports")
    ] = 1000,
    cuda: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="join mutants of CUDA sources"),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="parts made now take their places in it"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the matrix as a picture")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="only show what the file holds")
    ] = False,
    workers: Annotated[int, typer.Option("-n", min=1, help="processes")] = 2,
) -> None:
    """Score the judge: mutants killed by each property, power, false alarms.

    Status 1: a mutant survived, or an honest port was called wrong.
    """
    import torch

    from refmoe.cli.commands import usage
    from refmoe.report.files import check_writable
    from refmoe.report.terminal import console_for
    from refmoe.score import document, text
    from refmoe.score import plot as picture
    from refmoe.score.cuda import joined
    from refmoe.score.make import Wanted
    from refmoe.score.matrix import chosen
    from refmoe.score.properties import property_called

    # The cases are small: sharing one among threads costs more than it saves.
    torch.set_num_threads(1)
    console = console_for()
    wanted = Wanted(
        "deep" if deep else "ci", tuple(mutants or ()), tuple(property_ or ()),
        honest, cuda, workers,
    )  # fmt: skip
    with usage():
        for name in wanted.properties:
            property_called(name)
        for name in part or ():
            document.part_called(name)
        if "cuda" in (part or ()) and cuda is None:
            raise ValueError("--part cuda needs --cuda FILE")
        chosen(wanted.names)
        if plot is not None:
            picture.check(plot)
            check_writable(plot)
        if show and json is None:
            raise ValueError("--show needs --json FILE")
        if show and json is not None and not json.exists():
            raise ValueError(f"--show: there is no file {json}")
        found = document.Score() if json is None else document.read(json)
        if not show:
            check_writable(json)
        if cuda is not None:
            joined(cuda)
    if not show:
        _make(part or _parts(wanted), wanted, found, json, console)
    with usage():
        for line in text.lines(found.parts):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if plot is not None:
            picture.draw(found.parts.get("matrix"), plot)
    raise typer.Exit(text.status(found.parts))


def _parts(wanted: Wanted) -> list[str]:
    """What is made unless parts are named."""
    from refmoe.score.document import PARTS

    if wanted.names or wanted.properties:
        return ["matrix"]
    return [name for name in PARTS if name != "cuda" or wanted.cuda is not None]


def _make(
    parts: list[str], wanted: Wanted, found: Score, json: Path | None, console: Console
) -> None:
    """The parts, each written as far as it is."""
    from refmoe.score.make import make

    command = " ".join(["refmoe", *sys.argv[1:]])
    with console.status("...") as status:
        for name in parts:
            before, start = found.parts.get(name), time.perf_counter()
            # Honest cases go on where they ended, and so does their time.
            earlier = before["made"]["seconds"] if before and name == "honest" else 0.0
            for made in make(name, wanted, before, status.update):
                seconds = earlier + time.perf_counter() - start
                found.put(name, made, command, seconds)
                if json is not None:
                    found.write(json)
