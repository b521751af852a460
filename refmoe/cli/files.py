"""The commands that write files: a case as a script, problems, a first port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refmoe.cli.app import Formats, Large, Models, Ops, Regimes, Seed

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="made if need be")]


def script(
    case: Annotated[
        str, typer.Argument(metavar="'CASE'", help="the line of a finding")
    ],
    port: Annotated[
        str, typer.Argument(metavar="[PORT]", help="package.module, or module:object")
    ] = "my_port",
    large: Large = False,
) -> None:
    """Print a case as one Python file that needs torch and the port only."""
    from refmoe.cli.commands import usage
    from refmoe.exchange.script import script as written
    from refmoe.loading import load
    from refmoe.parse import LARGEST, parse
    from refmoe.problem import build

    with usage():
        problem = build(parse(case, largest=None if large else LARGEST))
        if port != "my_port":
            loaded = load(port)
            if loaded.get("layouts"):
                raise ValueError(
                    f"script: port {port!r} declares layouts, which only refmoe can "
                    "undo; run the case by refmoe repro"
                )
            layer, numerics = loaded.definition(problem.layer)
            problem = problem.but(layer=layer, numerics=numerics)
        typer.echo(written(problem, port), nl=False)


def gen(
    folder: Folder,
    case: Annotated[
        list[str] | None, typer.Option(metavar="'CASE'", help="this case; repeatable")
    ] = None,
    op: Ops = None,
    model: Models = None,
    regime: Regimes = None,
    format_: Formats = None,
    cases: Annotated[
        int, typer.Option(min=1, max=10_000, help="cases per op, model and regime")
    ] = 1,
    seed: Seed = 0,
) -> None:
    """Write problems as safetensors, for implementations that are not Python."""
    from refmoe.cli.commands import Choice, usage
    from refmoe.exchange import files
    from refmoe.parse import parse
    from refmoe.plan import cases as planned
    from refmoe.plan import cells

    with usage():
        lines = [parse(line) for line in case or ()]
        if not lines:
            choice = Choice(
                tuple(op or ()), tuple(model or ()), tuple(regime or ()),
                tuple(format_ or ()),
            ).checked()  # fmt: skip
            grid = cells(
                choice.ops, choice.models, choice.formats, choice.regimes,
                confined=not regime,
            )  # fmt: skip
            lines = [item for cell in grid for item in planned(cell, cases, seed)]
        folder.mkdir(parents=True, exist_ok=True)
        for number, item in enumerate(lines):
            files.write(item, folder, f"{number:05}-{item.op}")
    typer.echo(f"{len(lines)} problems in {folder}; refmoe check judges the answers")


def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="from refmoe gen")],
    numerics: Annotated[
        str, typer.Option(help="the preset that the implementation declares")
    ] = "ieee",
    stable: Annotated[
        bool, typer.Option("--stable", help="rows of an expert keep their order")
    ] = False,
) -> None:
    """Judge the answers beside the problems of a folder: NAME.out.safetensors."""
    from refmoe.cli.checking import run_check

    raise typer.Exit(run_check(folder, numerics, stable))


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="of the new module")],
) -> None:
    """Write NAME.py, a port of ten lines, and test_NAME.py, a test of three."""
    from refmoe.cli.commands import usage
    from refmoe.exchange.scaffold import start

    with usage():
        for path in start(name, Path()):
            typer.echo(f"wrote {path}")


#: In the order in which they are listed.
writing = (script, gen, check, init)
