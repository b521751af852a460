"""A run on the terminal: header, progress, table, findings, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refmoe.expected import Standing
from refmoe.port import Port
from refmoe.report.about import about
from refmoe.report.table import Row, rows
from refmoe.report.text import lines
from refmoe.verdict import Finding, Kind
from refmoe.verify import Record, findings

if TYPE_CHECKING:
    from rich.console import Console

#: Findings shown for one port and op; the certificate holds all of them.
SHOWN = 3
_COLOURS = {
    Kind.BIT_EQUAL: "green", Kind.WITHIN: "green", Kind.WRONG: "bold red",
    Kind.CRASHED: "bold red", Kind.HUNG: "bold red", Kind.SUSPECT: "yellow",
    Kind.UNDECLARED: "yellow",
}  # fmt: skip


def console_for(width: int = 120) -> Console:
    """A console; where there is no terminal, lines of `width` keep tables whole."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=width)


def header(console: Console, ports: Sequence[Port], cases: int) -> None:
    """Who is judged, by what they declare."""
    for port in ports:
        console.print(str(about(port)), markup=False, highlight=False, soft_wrap=True)
    console.print(f"{cases} cases", highlight=False)


@contextmanager
def progress(console: Console, total: int) -> Iterator[Any]:
    """A bar that advances by one record at a time; the first verdict gets a line."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    counts: Counter[Kind] = Counter()
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

        yield seen


def table(console: Console, records: Sequence[Record], *, merged: bool = False) -> None:
    """For each port one line per op, subject and regime that ran.

    `merged` adds up the regimes of an op and subject.
    """
    from rich.table import Table
    from rich.text import Text

    for port in dict.fromkeys(record.port for record in records):
        own = [record for record in records if record.port == port]
        lines_ = rows(own, merged=merged)
        ran = [row for row in lines_ if row.not_run < row.cases]
        console.print(f"\n{port}", style="bold", highlight=False)
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("op", "of", "regime"):
            grid.add_column(name, no_wrap=True)
        for name in ("cases", "equal", "within", "wrong", "not run"):
            grid.add_column(name, justify="right", no_wrap=True)
        for name in ("error / bound: median, largest", "other"):
            grid.add_column(name, no_wrap=True)
        for row in ran:
            grid.add_row(
                row.op, row.subject, row.regime, str(row.cases),
                _count(row.kinds[Kind.BIT_EQUAL]), _count(row.kinds[Kind.WITHIN]),
                Text(_failed(row), style="bold red"), _count(row.not_run), _error(row),
                Text(_others(row), style="yellow"),
            )  # fmt: skip
        if ran:
            console.print(grid)
        _absent(console, [row for row in lines_ if row.not_run == row.cases])


def _absent(console: Console, idle: Sequence[Row]) -> None:
    """One line for what never ran, by op."""
    subjects: dict[str, list[str]] = {}
    for row in idle:
        named = subjects.setdefault(row.op, [])
        if row.subject not in named:
            named.append(row.subject)
    if subjects:
        text = "; ".join(f"{op} of {', '.join(of)}" for op, of in subjects.items())
        console.print(f"never ran: {text}", style="dim", highlight=False)


def _count(number: int) -> str:
    return str(number) if number else "-"


def _others(row: Row) -> str:
    kinds = (Kind.AMBIGUOUS, Kind.UNDECIDED, Kind.SUSPECT, Kind.UNDECLARED)
    return _named(row, kinds)


def _failed(row: Row) -> str:
    found = [str(row.kinds[Kind.WRONG])] if row.kinds[Kind.WRONG] else []
    rest = _named(row, (Kind.CRASHED, Kind.HUNG))
    return ", ".join(found + [rest] * bool(rest)) or "-"


def _named(row: Row, kinds: Sequence[Kind]) -> str:
    found = [f"{row.kinds[kind]} {kind.lower()}" for kind in kinds if row.kinds[kind]]
    return ", ".join(found)


def _error(row: Row) -> str:
    """Median and largest error / bound of the tap that comes nearest to its bound."""
    if not row.largest:
        return ""
    tap = max(row.largest, key=lambda name: row.largest[name])
    median = f"{row.median(tap):.2g}, " if row.medians.get(tap) else ""
    return f"{tap} {median}{row.largest[tap]:.2g}"


def show(console: Console, records: Sequence[Record]) -> None:
    """The worst findings of each port and op, then deviations, apart."""
    shown: Counter[tuple[str, str]] = Counter()
    found = findings(records)
    for finding in found:
        shown[finding.port, finding.op] += 1
        if shown[finding.port, finding.op] <= SHOWN:
            _print(console, finding)
    rest = sum(count - SHOWN for count in shown.values() if count > SHOWN)
    if rest:
        console.print(f"... and {rest} findings more; --json FILE keeps all of them")
    deviations(console, records)


def deviations(console: Console, records: Sequence[Record]) -> None:
    """The first deviation of each port, op and subject."""
    first: dict[tuple[str, str, str], Finding] = {}
    for record in records:
        departure = record.deviating()
        if departure is not None:
            key = (record.port, record.cell.op, record.cell.subject)
            first.setdefault(key, departure)
    if first:
        console.print(
            "\ndeviations: what the port declares, but not what the model defines",
            highlight=False,
        )
    for departure in first.values():
        _print(console, departure)


def expectations(console: Console, found: Sequence[Standing]) -> None:
    """How the known failures of the author's file came out."""
    for standing in found:
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
