"""A run on the terminal: header, progress, table, findings, summary."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refmoe.port import Port
from refmoe.report.about import about
from refmoe.report.advice import advice, fits
from refmoe.report.run import Run, departures
from refmoe.report.table import Row, condensed, rows
from refmoe.report.text import lines
from refmoe.verdict import Finding, Kind
from refmoe.verify import Record

if TYPE_CHECKING:
    from rich.console import Console

#: Findings shown for one port and op; the certificate holds all of them.
SHOWN = 3
#: Reasons shown for what a port did not run.
REASONS = 3
#: Seconds between lines of progress where there is no terminal.
_QUIET = 30.0
_COLOURS = {
    Kind.BIT_EQUAL: "green", Kind.WITHIN: "green", Kind.WRONG: "bold red",
    Kind.CRASHED: "bold red", Kind.HUNG: "bold red", Kind.SUSPECT: "yellow",
    Kind.UNDECLARED: "yellow",
}  # fmt: skip


def console_for(width: int = 120) -> Console:
    """A console; where there is no terminal, lines of `width` keep tables whole."""
    from rich.console import Console

    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=width, emoji=False)


def header(console: Console, ports: Sequence[Port], cases: int) -> None:
    """Who is judged, by what they declare."""
    for port in ports:
        console.print(str(about(port)), markup=False, highlight=False, soft_wrap=True)
    absent = "" if cases else ": no port has an op that is asked for"
    console.print(f"{cases} cases{absent}", highlight=False)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Any]:
    """A bar that advances by one record at a time; the first verdict gets a line.

    Where there is no terminal for a bar, there is a line now and then.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    counts: Counter[Kind] = Counter()
    told = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        console=console, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=total)

        def seen(record: Record) -> None:
            if record.kind.executed and not any(kind.executed for kind in counts):
                console.print(
                    f"first verdict: {record.kind}  {record.case}",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip
            counts[record.kind] += 1
            tally = "  ".join(f"{kind} {counts[kind]}" for kind in Kind if counts[kind])
            bar.update(task, advance=1, description=tally)
            nonlocal told
            if not console.is_terminal and time.monotonic() > told + _QUIET:
                told = time.monotonic()
                line = f"{counts.total()} of {total}  {tally}"
                console.print(line, highlight=False, soft_wrap=True)

        yield seen


def table(console: Console, records: Sequence[Record]) -> None:
    """For each port one line per op, subject and kind of inputs that ran.

    Inputs that all passed share a line; the page and the certificate keep them apart.
    """
    from rich.table import Table
    from rich.text import Text

    for port in dict.fromkeys(record.port for record in records):
        own = [record for record in records if record.port == port]
        lines_ = rows(own)
        ran = condensed([row for row in lines_ if row.not_run < row.cases])
        console.print(f"\n{port}", style="bold", highlight=False)
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("op", "of", "inputs"):
            grid.add_column(name, no_wrap=True)
        for name in ("cases", "equal", "within", "wrong", "not run"):
            grid.add_column(name, justify="right", no_wrap=True)
        for name in ("error / bound: median, largest", "other"):
            grid.add_column(name, no_wrap=True)
        for row in ran:
            grid.add_row(
                row.op, row.subject, row.inputs, str(row.cases),
                _count(row.kinds[Kind.BIT_EQUAL]), _count(row.kinds[Kind.WITHIN]),
                Text(row.failures or "-", style="bold red"), _count(row.not_run),
                row.error, Text(row.others, style="yellow"),
            )  # fmt: skip
        if ran:
            console.print(grid)
        _absent(console, lines_)
        _reasons(console, [record for record in own if not record.kind.executed])


def _absent(console: Console, found: Sequence[Row]) -> None:
    """One line for what never ran: subjects of an op, and inputs of those that did."""
    ran = {(row.op, row.subject) for row in found if row.not_run < row.cases}
    words: dict[str, list[str]] = {}
    for row in found:
        if row.not_run < row.cases:
            continue
        part = (row.op, row.subject) in ran
        named = words.setdefault(f"{row.op}:" if part else f"{row.op} of", [])
        name = row.inputs if part else row.subject
        if name not in named:
            named.append(name)
    if words:
        text = "; ".join(f"{op} {', '.join(of)}" for op, of in words.items())
        console.print(f"never ran: {text}", style="dim", highlight=False)


def _reasons(console: Console, idle: Sequence[Record]) -> None:
    """Why cases did not run, the commonest reasons first."""
    words: Counter[str] = Counter()
    for record in idle:
        if record.log:
            words[f"{record.kind.lower()}: {record.log.splitlines()[0]}"] += 1
    for text, count in words.most_common(REASONS):
        console.print(
            f"  {count} {text}", style="dim", markup=False, highlight=False,
            soft_wrap=True,
        )  # fmt: skip
    if len(words) > REASONS:
        console.print(f"  ... {len(words)} reasons in all", style="dim")


def _count(number: int) -> str:
    return str(number) if number else "-"


def show(console: Console, run: Run) -> None:
    """The worst findings of each port and op; deviations and known failures apart.

    Of what is UNDECLARED, one for each arithmetic that fits, and what to declare.
    """
    counts = Counter(map(_group, run.findings))
    shown: Counter[tuple[str, str, str]] = Counter()
    for finding in run.findings:
        group = _group(finding)
        alike = counts[group] - 1 if fits(finding) else 0
        if shown[group] < (1 if fits(finding) else SHOWN):
            _print(console, finding)
            if alike:
                console.print(f"  and {_numbered(alike, 'case')} more, alike")
        shown[group] += 1
    own = {group: count for group, count in counts.items() if not group[2]}
    rest = sum(count - SHOWN for count in own.values() if count > SHOWN)
    if rest:
        more = _numbered(rest, "finding")
        console.print(f"... and {more} more; --json FILE keeps all of them")
    for line in advice(run.unexpected):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    aside(console, run)


def _group(finding: Finding) -> tuple[str, str, str]:
    return finding.port, finding.op, fits(finding)


def _numbered(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def aside(console: Console, run: Run) -> None:
    """The first deviation of each port, op and subject; then known failures."""
    first = departures(run.records)
    if first:
        console.print(
            "\ndeviations: what the port declares, but not what the model defines",
            highlight=False,
        )
    for departure in first:
        _print(console, departure)
    for standing in run.standings:
        if standing.stale:
            text, style = "no longer fails; remove it", "bold red"
        elif standing.used:
            text, style = f"{standing.failed} failed as expected", "yellow"
        else:
            text, style = "not used: none of its cases ran", "dim"
        console.print(
            f"known failure {standing.entry}: {text}",
            style=style, markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip


def _print(console: Console, finding: Finding) -> None:
    head, *rest = lines(finding)
    style = "cyan" if finding.deviation else _COLOURS.get(finding.verdict.kind, "")
    console.print(head, style=style, markup=False, highlight=False, soft_wrap=True)
    for line in rest:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def summary(console: Console, records: Sequence[Record], seconds: float) -> None:
    """One line: cases, rate, shares of the verdicts, what never ran."""
    kinds = Counter(record.kind for record in records)
    executed = sum(count for kind, count in kinds.items() if kind.executed)
    shares = "  ".join(
        f"{kind.lower().replace('_', '-')} {100 * kinds[kind] / max(executed, 1):.3g} %"
        for kind in Kind
        if kind.executed and kinds[kind]
    )
    idle = len(records) - executed
    console.print(
        f"\n{executed} cases executed in {seconds:.1f} s "
        f"({executed / max(seconds, 1e-9):.0f}/s)"
        + (f" | {shares}" if shares else "")
        + (f" | {idle} not run" if idle else ""),
        highlight=False, soft_wrap=True,
    )  # fmt: skip
