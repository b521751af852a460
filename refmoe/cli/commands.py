"""What the commands do, apart from how their options are spelt."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import torch

from oracle.blocks import preset
from refmoe.case import format_names, model_names, model_of
from refmoe.cli.hosting import Hosting, Load
from refmoe.expected import read
from refmoe.interrupt import interrupted
from refmoe.laws import LAWS, Law, law_called
from refmoe.parse import LARGEST, parse
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, cells
from refmoe.port import Port
from refmoe.problem import build
from refmoe.protocol import OPS
from refmoe.protocol import op as op_called
from refmoe.regimes import REGIMES
from refmoe.regimes import regime as regime_called
from refmoe.report import terminal
from refmoe.report.about import about
from refmoe.report.files import Files
from refmoe.report.run import Run
from refmoe.report.text import described
from refmoe.schedule import heard, schedule
from refmoe.study import studied
from refmoe.supports import Supports
from refmoe.verify import Verifier, status, verify

#: What is judged on a GPU where no port is named: our kernels, as weights are prepared,
#: and under the signatures of others.
_OURS = (
    "refmoe.kernels", "refmoe.kernels:interleaved", "refmoe.kernels:restacked",
    "refmoe.dropin:flashinfer", "refmoe.dropin:omni", "refmoe.dropin:sglang",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """What a verification is narrowed to; empty: the defaults."""

    ops: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    #: Named ones are heard alone; None: no law.
    laws: tuple[str, ...] | None = ()

    def checked(self) -> Choice:
        """With every name known and the defaults filled in; raises ValueError."""
        for name in self.ops:
            op_called(name)
        for name in self.regimes:
            regime_called(name)
        models = _all_or(self.models, model_names(), DEFAULT_MODELS)
        formats = _all_or(self.formats, format_names(), DEFAULT_FORMATS)
        for name in models:
            model_of(name)
        for name in formats:
            preset(name)
        for name in self.laws or ():
            law_called(name)
        return Choice(
            self.ops or tuple(OPS), models, self.regimes or tuple(REGIMES), formats,
            self.laws,
        )  # fmt: skip

    def hearings(self, count: int) -> tuple[int, tuple[Law, ...], int]:
        """How many of `count` cases each cell gets, which laws are heard, how often."""
        if self.laws is None:
            return count, (), 0
        if self.laws:
            return 0, tuple(law_called(name) for name in self.laws), count
        return count, tuple(LAWS.values()), 1


def _all_or(
    given: tuple[str, ...], every: tuple[str, ...], default: tuple[str, ...]
) -> tuple[str, ...]:
    return every if "all" in given else given or default


@contextmanager
def usage() -> Iterator[None]:
    """Turn what the user can mend into one line and exit status 2."""
    import typer

    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        typer.echo(f"refmoe: {error}", err=True)
        raise typer.Exit(2) from None


def chosen_ports(names: Sequence[str], load: Load) -> list[Port]:
    """The ports called `names`; without any, ours on a GPU and the peers elsewhere.

    Raises ValueError if one needs a GPU and there is none, ImportError if one cannot be
    imported; default peers whose package is missing are left out as long as one is
    there.
    """
    if names:
        found = load(names)
        for port in found:
            port.check_device()
        return found
    if torch.cuda.is_available():
        return load(_OURS)
    found, reasons = [], []
    for name in importlib.import_module("refmoe.peers").defaults():
        try:
            found += load([name])
        except ImportError as error:
            reasons.append(str(error))
    if not found:
        raise ImportError(
            "no PORT is given, there is no GPU for our kernels, and no peer is "
            f"installed: {reasons[0]}"
        )
    return found


def named_formats(ports: Sequence[Port]) -> list[str]:
    """The formats that ports name as those they take."""
    declared = [port.get("supports") for port in ports]
    named = [one.formats or () for one in declared if isinstance(one, Supports)]
    return [name for names in named for name in names]


def run_verify(
    names: Sequence[str],
    choice: Choice,
    count: int,
    seed: int,
    files: Files,
    known: Path | None,
    hosting: Hosting,
    study: float,
) -> int:
    """`refmoe verify`; returns the exit status."""
    # The cases are small: sharing one among threads costs more than it saves.
    torch.set_num_threads(1)
    console = terminal.console_for()
    confined, own_formats = not choice.regimes, not choice.formats
    with hosting.opened() as (runner, load):
        with usage():
            choice = choice.checked()
            files.check()
            expected = [] if known is None else read(known)
            ports = chosen_ports(names, load)
        formats = choice.formats
        if own_formats:
            formats = tuple(dict.fromkeys((*formats, *named_formats(ports))))
        grid = cells(
            choice.ops, choice.models, formats, choice.regimes, confined=confined
        )
        count, laws, hearings = choice.hearings(count)
        total = len(list(schedule(ports, grid, count, seed)))
        total += len(list(heard(ports, grid, laws, hearings, seed)))
        terminal.header(console, ports, total)
        console.print(str(hosting), highlight=False, soft_wrap=True)
        start = time.perf_counter()
        asked = Event()
        with terminal.progress(console, total) as seen, interrupted(asked.set):
            records = verify(
                ports, grid, count,
                seed=seed, laws=laws, hearings=hearings, pictures=files.pictures,
                seen=seen, runner=runner, stopped=asked.is_set,
            )  # fmt: skip
        seconds = time.perf_counter() - start
        if len(records) < total:
            console.print(
                f"interrupted: {len(records)} of {total} cases", style="bold red",
                highlight=False,
            )  # fmt: skip
        elif study and any(record.kind.failed for record in records):
            console.print("studying the failures ...", style="dim", highlight=False)
            verifier = Verifier(runner=runner)
            records = studied(records, ports, verifier, seconds=study)
    run = Run([*map(about, ports)], records, seed, seconds, expected, total)
    terminal.table(console, records)
    terminal.show(console, run)
    terminal.summary(console, records, seconds)
    with usage():
        files.write(run)
    return run.status


def run_repro(line: str, names: Sequence[str], large: bool, hosting: Hosting) -> int:
    """`refmoe repro`; returns the exit status."""
    console = terminal.console_for()
    with hosting.opened() as (runner, load):
        with usage():
            case = parse(line, largest=None if large else LARGEST)
            build(case)
            if case.law is not None:
                law_called(case.law)
            found = chosen_ports(names, load)
        ports = [port for port in found if names or case.op in port.ops]
        verifier = Verifier(runner=runner)
        records = [verifier.check(port, case) for port in ports]
    if not ports:
        console.print(f"no default port has the op {case.op}; name a PORT")
    for record in records:
        console.print(
            f"{record.kind} {case.op}[{record.port}]  {case}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        for verdict in record.judgement.results:
            console.print(
                f"  {verdict.kind} {described(verdict)}",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
    terminal.show(console, Run((), records))
    return status(records)
