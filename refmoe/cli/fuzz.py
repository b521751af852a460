"""`refmoe fuzz` and `refmoe fuzz-merge`: campaigns."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from refmoe.cli.app import CompileDeadline, Deadline, InProcess, Memory

State = Annotated[
    Path, typer.Option(metavar="FOLDER", help="what was done; resumed if it is there")
]
LedgerFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="findings, else in the state")
]


def fuzz(
    ports: Annotated[
        list[str], typer.Argument(metavar="PORT...", help="several: side by side")
    ],
    cases: Annotated[
        int | None, typer.Option(min=1, help="of the whole campaign, all shards")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="of this run")] = None,
    workers: Annotated[int, typer.Option("-n", min=1, help="processes")] = 2,
    state: State = Path("fuzz-state"),
    ledger: LedgerFile = None,
    corpus: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="cases replayed first, else in the state"),
    ] = None,
    database: Annotated[
        str,
        typer.Option(metavar="DIR|redis://", help="examples shared by processes"),
    ] = "",
    shard: Annotated[str, typer.Option(metavar="I/N", help="counted from 0")] = "0/1",
    op: Annotated[
        list[str] | None, typer.Option(help="only this op; repeatable")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="repeatable")] = None,
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="block format; repeatable")
    ] = None,
    regime: Annotated[list[str] | None, typer.Option(help="repeatable")] = None,
    arch: Annotated[
        str, typer.Option(metavar="SM,...", help="architectures, as sm_80,sm_90a")
    ] = "",
    elements: Annotated[
        int, typer.Option(min=1, help="of the tensors of the largest case")
    ] = 1 << 14,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    study: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="for each new failure")
    ] = 20.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="for logs")] = False,
    in_process: InProcess = False,
    deadline: Deadline = 30.0,
    compile_deadline: CompileDeadline = 180.0,
    memory: Memory = None,
) -> None:
    """Hunt for hours, in processes that may be killed: the same command resumes.

    Status 1 also where a finding returned that the ledger calls fixed.
    """
    if cases is None and minutes is None:
        raise typer.BadParameter("say how much: --cases or --minutes")
    from refmoe.campaign import archs, run
    from refmoe.campaign import corpus as lines
    from refmoe.campaign.database import check
    from refmoe.campaign.ledger import read
    from refmoe.campaign.plan import Limits, Plan
    from refmoe.campaign.processes import elsewhere
    from refmoe.campaign.stream import Job
    from refmoe.case import format_of, model_of
    from refmoe.cli.commands import usage
    from refmoe.cli.hosting import Hosting
    from refmoe.cli.told import progress, say, told, told_of_run
    from refmoe.protocol import op as op_called
    from refmoe.regimes import regime as regime_called
    from refmoe.report.files import check_writable
    from refmoe.report.run import INTERRUPTED
    from refmoe.report.terminal import console_for

    hosting = Hosting(in_process, deadline, compile_deadline, memory)
    console = console_for()
    known: tuple[tuple[list[str] | None, Callable[[str], object]], ...] = (
        (op, op_called), (model, model_of), (format_, format_of),
        (regime, regime_called),
    )  # fmt: skip
    with usage():
        for names, called in known:
            for name in names or ():
                called(name)
        check_writable(ledger)
        number, shards = _shard(shard)
        # What cannot be loaded, or read, is said before anything is started.
        named = arch.split(",") if arch else []
        importing = f"importing {' and '.join(ports)}"
        scouted = elsewhere(importing, archs.scouted, hosting, ports, op or (), named)
        plan = Plan(
            tuple(ports), tuple(op or ()), tuple(model or ()), tuple(format_ or ()),
            tuple(regime or ()), scouted.runs, elements, seed, workers, number, shards,
        )  # fmt: skip
        limits = Limits(cases, None if minutes is None else 60 * minutes)
        place = corpus or state / "corpus"
        job = Job(plan, 0, state, hosting, limits, lines.read(place), database, study)
        book = ledger or state / "ledger.toml"
        read(book)
        if database:
            check(database)
    for name in scouted.emulated:
        say(console, f"{name}: emulated accumulators stand in for its matrix units")
    for name in scouted.never:
        say(console, f"{name} never ran: nothing here executes its code")
    if arch and not scouted.runs:
        raise typer.Exit(3)
    with usage():
        with progress(console, limits.cases, quiet) as watch:
            done = run.campaign(job, watch)
        status = told(console, done.totals, plan.name, book, done.failed)
        lines.add(place, (one.case for one, _ in done.totals.findings))
    told_of_run(console, done, limits.cases)
    if done.interrupted and status != 1:
        status = INTERRUPTED
    if done.ended and status != 1:
        status = 2
    raise typer.Exit(status)


def _shard(text: str) -> tuple[int, int]:
    """Number and count of "I/N"; raises ValueError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard {text}: count from 0, as 0/4 to 3/4")
    return int(found[1]), int(found[2])


def fuzz_merge(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="a new state")],
    states: Annotated[list[Path], typer.Argument(metavar="STATE...")],
    ledger: LedgerFile = None,
) -> None:
    """Join the states of a campaign's shards, each case once."""
    from refmoe.campaign import plan, run
    from refmoe.campaign.merge import merge
    from refmoe.cli.commands import usage
    from refmoe.cli.told import told
    from refmoe.report.terminal import console_for

    with usage():
        merge(target, states)
        book = ledger or target / "ledger.toml"
        status = told(console_for(), run.totals(target), plan.read(target).name, book)
    raise typer.Exit(status)


campaigning = (fuzz, fuzz_merge)
