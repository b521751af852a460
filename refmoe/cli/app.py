"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refmoe.cli.identify import identify_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Verify Mixture-of-Experts kernels against a correctness-first oracle.",
    epilog="Exit status: 0 clean; 1 WRONG, CRASHED or HUNG; 2 usage; 3 undecided.",
)

Ports = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PORT]...", help="package.module or package.module:object; else ours"
    ),
]
Large = Annotated[
    bool, typer.Option("--large", help="lift the bound on the size of a case")
]
Ops = Annotated[list[str] | None, typer.Option("--op", help="only this op; repeatable")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="a model, or 'all'; repeatable")
]
Regimes = Annotated[
    list[str] | None,
    typer.Option("--regime", help="how values are drawn; repeatable"),
]
Formats = Annotated[
    list[str] | None,
    typer.Option("--format", help="block format of the quantising ops, or 'all'"),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="first seed")]
InProcess = Annotated[
    bool,
    typer.Option("--in-process", help="no workers: faster to start, and unguarded"),
]
Deadline = Annotated[
    float, typer.Option(min=0.1, help="seconds that a call may take; beyond it HUNG")
]
CompileDeadline = Annotated[
    float, typer.Option(min=0.1, help="the same for the first call of an op")
]
Memory = Annotated[
    float | None,
    typer.Option(min=0.1, metavar="GIB", help="memory that a worker may take"),
]


@app.command("verify")
def verify_command(
    ports: Ports = None,
    op: Ops = None,
    model: Models = None,
    regime: Regimes = None,
    format_: Formats = None,
    law: Annotated[
        list[str] | None,
        typer.Option(help="only this law, in as many cases; repeatable"),
    ] = None,
    no_laws: Annotated[
        bool, typer.Option("--no-laws", help="no related launches")
    ] = False,
    cases: Annotated[
        int, typer.Option(min=1, max=10_000, help="cases per op, model and regime")
    ] = 4,
    seed: Seed = 0,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the certificate here")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write JUnit XML here")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a page with pictures")
    ] = None,
    expected_failures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="known failures, as TOML; see refmoe.expected"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="one case of each")] = False,
    study: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="time to find smaller cases and causes of failures",
        ),
    ] = 20.0,
    in_process: InProcess = False,
    deadline: Deadline = 30.0,
    compile_deadline: CompileDeadline = 180.0,
    memory: Memory = None,
) -> None:
    """Judge ports: the table, each finding with its bits, the certificate."""
    from refmoe.cli.commands import Choice, run_verify
    from refmoe.cli.hosting import Hosting
    from refmoe.report.files import Files

    if law and no_laws:
        raise typer.BadParameter("--law and --no-laws exclude each other")
    choice = Choice(
        tuple(op or ()), tuple(model or ()), tuple(regime or ()),
        tuple(format_ or ()), None if no_laws else tuple(law or ()),
    )  # fmt: skip
    count = 1 if quick else cases
    files = Files(json, junit, html)
    hosting = Hosting(in_process, deadline, compile_deadline, memory)
    status = run_verify(
        ports or [], choice, count, seed, files, expected_failures, hosting, study
    )
    raise typer.Exit(status)


@app.command()
def repro(
    case: Annotated[
        str, typer.Argument(metavar="'CASE'", help="the line of a finding")
    ],
    ports: Ports = None,
    large: Large = False,
    in_process: InProcess = False,
    deadline: Deadline = 30.0,
    compile_deadline: CompileDeadline = 180.0,
    memory: Memory = None,
) -> None:
    """Run one case again and show every result."""
    from refmoe.cli.commands import run_repro
    from refmoe.cli.hosting import Hosting

    hosting = Hosting(in_process, deadline, compile_deadline, memory)
    raise typer.Exit(run_repro(case, ports or [], large, hosting))


app.command("identify")(identify_command)


@app.command()
def bench(
    oracle: Annotated[
        bool, typer.Option("--oracle", help="time the oracle against what it mirrors")
    ] = False,
    production: Annotated[
        bool,
        typer.Option("--production", help="trace 64 of 4096 tokens of DeepSeek-V4-Pro"),
    ] = False,
    judge: Annotated[
        bool, typer.Option("--judge", help="time verdicts on small cases")
    ] = False,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="time this project's kernels on a GPU")
    ] = False,
    json: Annotated[
        Path | None, typer.Option("--json", help="write the kernels' times here")
    ] = None,
) -> None:
    """Measure; one thing at a time."""
    from refmoe.cli.benching import run_bench, run_kernels
    from refmoe.cli.commands import usage
    from refmoe.report.files import check_writable

    asked = {"oracle_": oracle, "production": production, "judge": judge}
    if sum(asked.values()) + kernels != 1:
        raise typer.BadParameter(
            "say what to measure: --oracle, --production, --judge or --kernels"
        )
    if json is not None and not kernels:
        raise typer.BadParameter("--json goes with --kernels")
    with usage():
        if kernels:
            check_writable(json)
            run_kernels(json)
            return
        run_bench(next(prefix for prefix, wanted in asked.items() if wanted))


@app.command()
def names() -> None:
    """List what a port may have and declare, and what cases can name."""
    from refmoe.cli.naming import run_names

    run_names()
