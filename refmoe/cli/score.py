"""`refmoe score`: how good the judge is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def score(
    mutants: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MUTANT]...", help="of the gallery; else all"),
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="matrix, power, rules or honest; repeatable, else all"),
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
    raise typer.Exit(
        run_score(
            tuple(mutants or ()), tuple(part or ()), tuple(property_ or ()), deep,
            honest, cuda, json, plot, show, workers,
        )
    )  # fmt: skip


def run_score(
    names: tuple[str, ...],
    parts: tuple[str, ...],
    properties: tuple[str, ...],
    deep: bool,
    honest: int,
    cuda: Path | None,
    json: Path | None,
    plot: Path | None,
    show: bool,
    workers: int,
) -> int:
    """`refmoe score`; returns the exit status."""
    import time

    import torch

    from refmoe.cli.commands import usage
    from refmoe.report.terminal import console_for
    from refmoe.score import document, text
    from refmoe.score import plot as picture
    from refmoe.score.make import Wanted, make
    from refmoe.score.matrix import chosen
    from refmoe.score.properties import property_called

    # The cases are small: sharing one among threads costs more than it saves.
    torch.set_num_threads(1)
    console = console_for()
    wanted = Wanted("deep" if deep else "ci", names, properties, honest, cuda, workers)
    with usage():
        for name in properties:
            property_called(name)
        for name in parts:
            document.part_called(name)
        chosen(names)
        if plot is not None:
            picture.check(plot)
        if show and json is None:
            raise ValueError("--show needs --json FILE")
        found = document.Score() if json is None else document.read(json)
    asked = parts or (("matrix",) if names or properties else document.PARTS)
    command = " ".join(["refmoe", *sys.argv[1:]])
    status = console.status("...") if console.is_terminal else None
    for name in () if show else asked:
        start, before = time.perf_counter(), found.parts.get(name)
        earlier = before["made"]["seconds"] if before and name == "honest" else 0.0
        seen = (lambda line: status.update(line)) if status else (lambda line: None)
        with usage():
            for made in make(name, wanted, before, seen):
                seconds = earlier + time.perf_counter() - start
                found.put(name, made, command, seconds)
                if json is not None:
                    found.write(json)
    with usage():
        for line in text.lines(found.parts):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if plot is not None:
            if "matrix" not in found.parts:
                raise ValueError(
                    "--plot shows the part `matrix`: make it, or name a file with it"
                )
            picture.draw(found.parts["matrix"], plot)
    return text.status(found.parts)
