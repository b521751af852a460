"""What `refmoe fuzz` says: a line that lives, the totals, the ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from refmoe.campaign.batch import Place
    from refmoe.campaign.run import Done
    from refmoe.campaign.totals import Totals


def told(
    console: Console, found: Totals, campaign: str, path: Path,
    failed: Collection[tuple[int, Place]] = (),
) -> int:  # fmt: skip
    """Say what the totals and the ledger hold, and write that; returns the status.

    `failed` are the streams and places at which this run met failures.
    Raises ValueError or OSError where the ledger cannot be read or written.
    """
    from refmoe.campaign import ledger

    old = ledger.read(path)
    entries = ledger.updated(old, found.findings, campaign, failed)
    say(console, f"{found.cases} cases, {found.replayed} of the corpus")
    for port, kinds in found.kinds.items():
        tally = "  ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        near, case = found.nearest.get(port, (0.0, ""))
        say(console, f"{port}: {tally}")
        if case:
            say(console, f"  largest error / bound that passed {near:.3g}: {case}")
    if found.closest:
        tally = "  ".join(f"{name} {n}" for name, n in found.closest.most_common())
        say(console, f"closest to the oracle: {tally}")
    for case, reason in list(found.unbuilt.items())[:1]:
        say(console, f"{len(found.unbuilt)} cases cannot be built: {reason}: {case}")
    if found.unstudied:
        say(console, f"{found.unstudied} failures are not studied yet: resume")
    here = [entry for entry in entries if entry.here(campaign)]
    for entry in here:
        word = "FIXED, AND BACK" if entry.status == "returned" else entry.status
        stage = f" at {entry.stage}" if entry.stage else ""
        say(console, f"{word}: {entry.kind} {entry.op}[{entry.port}]{stage}")
        cause = entry.cause or "no cause was found"
        say(console, f"  {entry.count} times, since {entry.since}: {cause}")
        say(console, f"  refmoe repro '{entry.case}' {entry.port}")
    if entries != old:
        ledger.write(path, entries)
    if here:
        say(console, f"ledger: {path}")
    if found.unstudied or any(entry.fails for entry in here):
        return 1
    return 0 if found.decided else 3


def told_of_run(console: Console, done: Done, cases: int | None) -> None:
    """The last line: what this run did, and how fast."""
    for text in done.ended:
        say(console, text)
    word = "interrupted" if done.interrupted else "this run"
    speed = done.cases / done.seconds
    say(console, f"{word}: {done.cases} cases in {done.seconds:.1f} s, {speed:.1f}/s")
    if not done.cases and done.totals.cases and cases is not None:
        say(console, f"--cases {cases} were done before: a larger number goes on")


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(
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
