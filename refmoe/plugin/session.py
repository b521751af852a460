"""One run under pytest: its settings, its ports, and what came of them so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from refmoe.exhibit import Album
from refmoe.expected import Entry, read
from refmoe.loading import load, port_of
from refmoe.plugin.settings import Settings
from refmoe.port import Port
from refmoe.report.about import About, about
from refmoe.report.files import Files
from refmoe.report.run import Run
from refmoe.report.text import lines
from refmoe.verdict import Kind
from refmoe.verify import Record, Verifier, unexplained
from refmoe.worker.home import Limits
from refmoe.worker.isolated import Isolated
from refmoe.worker.runner import InProcess, Runner


@dataclass(slots=True)
class Session:
    """What the tests of one process share, and (in the controller) all records."""

    settings: Settings
    expected: list[Entry]
    files: Files
    verifiers: dict[str, Verifier] = field(default_factory=dict)
    loaded: dict[str, Port] = field(default_factory=dict)
    #: Ports and ops whose first failure has been studied.
    studied: set[tuple[str, str]] = field(default_factory=set)
    ports: dict[str, About] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    #: Tests that were reported, and those of ops that the port does not have.
    tests: int = 0
    missing: int = 0
    started: float = field(default_factory=time.perf_counter)

    def port(self, target: Any) -> Port:
        """The port that a suite names, or the run's own.

        Raises UsageError where there is none, or it cannot be loaded.
        """
        target = self.settings.port if target is None else target
        if target is None:
            raise pytest.UsageError(
                "refmoe: there is no port; set REFMOE_IMPL=package.module, or pass "
                "--refmoe-impl package.module"
            )
        try:
            port = self._loaded(target) if isinstance(target, str) else port_of(target)
        except (ValueError, TypeError, ImportError) as error:
            raise pytest.UsageError(f"refmoe: {error}") from None
        self.ports.setdefault(port.name, about(port))
        return port

    def _loaded(self, target: str) -> Port:
        if target not in self.loaded:
            runner = self.verifier(isolated=not self.settings.in_process).runner
            if isinstance(runner, Isolated):
                (self.loaded[target],) = runner.load(target)
            else:
                self.loaded[target] = load(target)
        return self.loaded[target]

    def verifier(self, *, isolated: bool) -> Verifier:
        """The verifier that runs ports in workers, or the one that runs them here."""
        if "workers" not in self.verifiers and isolated:
            limits = Limits(self.settings.deadline, self.settings.compile_deadline)
            self.verifiers["workers"] = self._verifier(Isolated(limits))
        if "here" not in self.verifiers and not isolated:
            self.verifiers["here"] = self._verifier(InProcess())
        return self.verifiers["workers" if isolated else "here"]

    def _verifier(self, runner: Runner) -> Verifier:
        return Verifier(runner=runner, album=Album(self.files.pictures))

    def close(self) -> None:
        """End the workers."""
        for verifier in self.verifiers.values():
            if isinstance(verifier.runner, Isolated):
                verifier.runner.close()

    def run(self) -> Run:
        """Everything so far, as the reports want it."""
        seconds = time.perf_counter() - self.started
        return Run(
            [*self.ports.values()], reconciled(self.records), self.settings.seed,
            seconds, self.expected,
        )  # fmt: skip

    def problems(self) -> list[str]:
        """Why the run as a whole fails, whatever its single tests say."""
        run, least = self.run(), self.settings.least
        decided = sum(r.kind.decided and not r.empty for r in run.records)
        found = []
        if self.tests and decided < least:
            found.append(
                f"{decided} cases were decided, {least} at least are needed "
                f"(REFMOE_LEAST): {self._idle()}"
            )
        found += [
            f"{standing.entry} no longer fails: {standing.passed} of its cases passed; "
            "remove it"
            for standing in run.standings
            if standing.stale
        ]
        found += [
            "\n".join(lines(after.finding()))
            for before, after in zip(self.records, run.records, strict=True)
            if before is not after and not run.excuse(after)
        ]
        return found

    def _idle(self) -> str:
        """How many cases decided nothing, by verdict."""
        kinds = [kind for kind in Kind if not kind.decided]
        counts = {k: sum(r.kind is k for r in self.records) for k in kinds}
        counts[Kind.MISSING] += self.missing
        return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def open_session(settings: Settings) -> Session:
    """A session with the file of known failures read.

    Raises UsageError if that file is malformed, or a report cannot be written.
    """
    path, files = settings.expected_failures, Files(settings.json, html=settings.html)
    try:
        entries = [] if path is None else read(path)
        files.check()
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"refmoe: {error}") from None
    return Session(settings, entries, files)


def reconciled(records: Sequence[Record]) -> list[Record]:
    """The records of all workers: UNDECLARED that together nothing explains is WRONG.

    Each worker settles its own, which may still contradict those of another.
    """
    left: dict[tuple[object, ...], set[str]] = {}
    for record in records:
        if record.kind is Kind.UNDECLARED:
            fitting = set(record.judgement.fitting)
            left[record.key] = left.get(record.key, fitting) & fitting
    return [
        unexplained(record)
        if record.kind is Kind.UNDECLARED and not left[record.key]
        else record
        for record in records
    ]
