"""What a run under pytest shows beside its tests: header, table, known failures."""

from __future__ import annotations

import io
import os
from typing import Any

from rich.console import Console

from refmoe.plugin.session import Session
from refmoe.report import terminal
from refmoe.report.about import versions


def header(session: Session) -> list[str]:
    """Lines for the top: versions, ports, devices, profile, seed, what is set."""
    settings = session.settings
    profile = settings.profile
    words = " ".join(f"{name} {text}" for name, text in versions().items())
    found = [f"refmoe: {words}"]
    for port in session.ports.values():
        found += [f"refmoe: {port}", f"refmoe: device {port.machine}"]
    found.append(
        f"refmoe: profile {profile.name} (cases of each cell: {profile.cases}), seed "
        f"{settings.seed}, {len(session.expected)} known failures"
    )
    given = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("REFMOE_")]
    return [*found, f"refmoe: {' '.join(sorted(given))}"] if given else found


def show(session: Session, reporter: Any) -> None:
    """The table over all workers, and what fails the run as a whole."""
    if not session.tests:
        return
    reporter.section("refmoe")
    stream = io.StringIO()
    # Where no terminal cuts lines, tables stay whole.
    width = reporter._tw.fullwidth if reporter.isatty else 120
    console = Console(
        file=stream, width=width, force_terminal=reporter.hasmarkup, emoji=False
    )
    run = session.run()
    terminal.table(console, run.records)
    terminal.aside(console, run)
    terminal.summary(console, run.records, run.seconds)
    reporter.write(stream.getvalue())
    for problem in session.problems():
        reporter.write_line(f"refmoe: {problem}", red=True, bold=True)
