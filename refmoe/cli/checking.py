"""`refmoe check`: answers in a folder, judged like any port's."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from oracle.numerics import PRESETS
from refmoe.cli.commands import usage
from refmoe.exchange.answers import Answers, port
from refmoe.exchange.files import problems
from refmoe.parse import parse
from refmoe.protocol import suggestion
from refmoe.report import terminal
from refmoe.report.run import Run
from refmoe.verify import Verifier


def run_check(folder: Path, numerics: str, stable: bool) -> int:
    """Judge every answer in `folder`; returns the exit status."""
    console = terminal.console_for()
    with usage():
        if numerics not in PRESETS:
            raise ValueError(
                f"no numerics are called {numerics!r}; {suggestion(numerics, PRESETS)}"
            )
        paths = {line: path for path, line in problems(folder)}
    verifier = Verifier(runner=Answers(paths))
    answering = port(str(folder), PRESETS[numerics], stable=stable)
    records = [verifier.check(answering, parse(line, largest=None)) for line in paths]
    words = ["refmoe", "check", str(folder), "--numerics", numerics]
    again = shlex.join([*words, "--stable"] if stable else words)
    records = [replace(verifier.settled(record), command=again) for record in records]
    run = Run((), records)
    terminal.table(console, records)
    terminal.show(console, run)
    terminal.summary(console, records, sum(record.seconds for record in records))
    return run.status
