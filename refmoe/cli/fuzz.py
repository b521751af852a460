"""`refmoe fuzz` and `refmoe fuzz-merge`: campaigns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refmoe.cli.app import CompileDeadline, Deadline, InProcess, Memory

if TYPE_CHECKING:
    from rich.console import Console

    from refmoe.campaign.ledger import Entry
    from refmoe.campaign.totals import Totals

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
    from refmoe.campaign.plan import Limits, Plan
    from refmoe.campaign.processes import elsewhere
    from refmoe.campaign.stream import Job
    from refmoe.case import format_of, model_of, rank_of
    from refmoe.cli.commands import usage
    from refmoe.cli.hosting import Hosting
    from refmoe.protocol import op as op_called
    from refmoe.regimes import regime as regime_called
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
        number, shards = rank_of(shard)
        if not 0 <= number < shards:
            raise ValueError(f"--shard {shard}: count from 0, as 0/4 to 3/4")
        # What cannot be loaded, or read, is said before anything is started.
        named = arch.split(",") if arch else []
        importing = f"importing {' and '.join(ports)}"
        scouted = elsewhere(importing, archs.scouted, hosting, ports, named)
        plan = Plan(
            tuple(ports), tuple(op or ()), tuple(model or ()), tuple(format_ or ()),
            tuple(regime or ()), scouted.runs, elements, seed, workers, number, shards,
        )  # fmt: skip
        limits = Limits(cases, None if minutes is None else 60 * minutes)
        place = corpus or state / "corpus"
        job = Job(plan, 0, state, hosting, limits, lines.read(place), database, study)
        book = ledger or state / "ledger.toml"
        _entries(book)
    for name in scouted.emulated:
        _say(console, f"{name}: emulated accumulators stand in for its matrix units")
    for name in scouted.never:
        _say(console, f"{name} never ran: nothing here executes its code")
    if arch and not scouted.runs:
        raise typer.Exit(3)
    with usage(), _progress(console, limits.cases, quiet) as watch:
        found, ended = run.campaign(job, watch)
    for text in ended:
        _say(console, text)
    status = _told(console, found, plan.name, book)
    lines.add(place, (one.case for one, _ in found.findings))
    raise typer.Exit(status or int(bool(ended)))


def fuzz_merge(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="a new state")],
    states: Annotated[list[Path], typer.Argument(metavar="STATE...")],
    ledger: LedgerFile = None,
) -> None:
    """Join the states of a campaign's shards, each case once."""
    from refmoe.campaign import plan, run
    from refmoe.campaign.merge import merge
    from refmoe.cli.commands import usage
    from refmoe.report.terminal import console_for

    with usage():
        merge(target, states)
        book = ledger or target / "ledger.toml"
        status = _told(console_for(), run.totals(target), plan.read(target).name, book)
    raise typer.Exit(status)


def _entries(path: Path) -> list[Entry]:
    from refmoe.campaign.ledger import read

    return read(path)


def _told(console: Console, found: Totals, campaign: str, path: Path) -> int:
    """Write the ledger and say what it and the totals hold; returns the status."""
    from refmoe.campaign import ledger

    old = ledger.read(path)
    entries = ledger.updated(old, found.findings, campaign)
    if entries != old:
        ledger.write(path, entries)
    _say(console, f"{found.cases} cases, {found.replayed} of the corpus")
    for port, kinds in found.kinds.items():
        tally = "  ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        near, case = found.nearest.get(port, (0.0, ""))
        _say(console, f"{port}: {tally}")
        if case:
            _say(console, f"  largest error / bound that passed {near:.3g}: {case}")
    if found.closest:
        tally = "  ".join(f"{name} {n}" for name, n in found.closest.most_common())
        _say(console, f"closest to the oracle: {tally}")
    for case, reason in list(found.unbuilt.items())[:1]:
        _say(console, f"{len(found.unbuilt)} cases cannot be built: {reason}: {case}")
    if found.unstudied:
        _say(console, f"{found.unstudied} failures are not studied yet: resume")
    here = [entry for entry in entries if entry.here(campaign)]
    for entry in here:
        word = "FIXED, AND BACK" if entry.status == "returned" else entry.status
        stage = f" at {entry.stage}" if entry.stage else ""
        _say(console, f"{word}: {entry.kind} {entry.op}[{entry.port}]{stage}")
        _say(console, f"  {entry.count} times, since {entry.since}: {entry.cause}")
        _say(console, f"  refmoe repro '{entry.case}' {entry.port}")
    if here:
        _say(console, f"ledger: {path}")
    if found.unstudied or any(entry.fails for entry in here):
        return 1
    return 0 if found.decided else 3


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(
    console: Console, cases: int | None, quiet: bool
) -> Iterator[Callable[[Totals], None]]:
    """A line that lives: cases, how fast, cells, findings, the largest error passed."""
    if quiet:
        yield lambda totals: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"),
        console=console, transient=True,
    )  # fmt: skip
    task = bar.add_task("", total=cases)
    # It has a thread, which begins when the processes are there.
    try:

        def watch(totals: Totals) -> None:
            bar.start()
            near = max((one for one, _ in totals.nearest.values()), default=0.0)
            speed = bar.tasks[0].speed or 0.0
            bar.update(
                task,
                completed=totals.cases,
                description=f"{speed:.0f}/s  {len(totals.cells)} cells  "
                f"{len(totals.found)} findings  error / bound {near:.3g}",
            )

        yield watch
    finally:
        bar.stop()


campaigning = (fuzz, fuzz_merge)
