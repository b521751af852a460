"""One process of a campaign: its batches, one after the other, until it is told.

The ops take turns, and within a batch regimes are drawn alike. Effort led to the cells
(op, regime) where something was new, or near its bound, meets the held mistakes after
nine tenths of the cases, 30 fewer of 290, and that may be chance (1.9 standard errors;
`campaign_effort.json` among the evidence): too little for an order that depends on what
was seen.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from refmoe.campaign.batch import Batch, Enough, Place, checked, place
from refmoe.campaign.closeness import Heard
from refmoe.campaign.database import Section, opened
from refmoe.campaign.plan import Hosting, Limits, Plan
from refmoe.campaign.processes import orphaned
from refmoe.campaign.state import (
    CORPUS,
    Checked,
    Ended,
    Found,
    Result,
    Stream,
    path_of,
)  # fmt: skip
from refmoe.case import Case, model_names
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.protocol import OPS
from refmoe.record import Record
from refmoe.study import studied
from refmoe.verify import Verifier
from refmoe.worker.runner import Runner


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is told when it starts."""

    plan: Plan
    stream: int
    folder: Path
    hosting: Hosting
    limits: Limits
    corpus: tuple[str, ...] = ()
    database: str = ""
    #: Seconds that are spent on a smaller case and the cause of one failure.
    study: float = 20.0


def work(job: Job, stopped: Callable[[], bool]) -> None:
    """The process: works until its share or time is over, or its command is gone."""
    # Ctrl-C is the parent's to hear; it then says stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    start = time.monotonic()

    def over() -> bool:
        seconds = job.limits.seconds
        late = seconds is not None and time.monotonic() - start >= seconds
        return late or stopped() or orphaned()

    status = 0
    try:
        with job.hosting.opened() as (runner, load):
            run(job, load(job.plan.ports), runner, over)
    except (ImportError, OSError) as error:
        # A port that cannot be loaded any more, a full disk: no more to be said.
        print(f"refmoe: stream {job.stream}: {error}", file=sys.stderr)
        status = 2
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that a port has started in this process are not waited for.
    os._exit(status)


def run(
    job: Job, ports: Sequence[Port], runner: Runner, over: Callable[[], bool]
) -> None:
    """The stream's batches from where its file ends, in this process."""
    # Hypothesis also draws numbers that stand in loaded modules: load them all now, so
    # that a resumed stream draws what an unbroken one does.
    model_names()
    if len(ports) > 1:
        runner = Heard(runner)
    with Stream(path_of(job.folder, job.stream)) as stream:
        try:
            _Worker(job, ports, runner, stream, over).run()
        except Enough:
            pass


@dataclass(slots=True)
class _Worker:
    job: Job
    ports: Sequence[Port]
    runner: Runner
    stream: Stream
    over: Callable[[], bool]
    drawn: int = 0
    #: The failures of the present batch that are to be studied.
    failures: list[Record] = field(default_factory=list)

    def run(self) -> None:
        """Replay the corpus, then draw."""
        plan, database = self.job.plan, None
        if self.job.database:
            database = opened(self.job.database)
        self.drawn, number = self.stream.drawn, self.stream.next_batch
        known = self.stream.places(number)
        known |= self._replay(frozenset(known))
        has = [op for op in OPS if any(op in port.ops for port in self.ports)]
        ops = [op for op in plan.ops or has if op in has]
        while ops:
            if not self.stream.unstudied(number):
                self._stop_if_over()
            op = ops[(number + self.job.stream) % len(ops)]
            section = None if database is None else Section(database, op.encode())
            known |= self._batch(number, op, frozenset(known), section)
            self.stream.append(Ended(number))
            self.stream.sync()
            number += 1

    def _batch(
        self, number: int, op: str, known: frozenset[Place], database: Section | None
    ) -> set[Place]:
        """Draw a batch, behind those of its cases that were written before.

        They are checked again all the same: verdicts depend on those before them.
        """
        verifier, skip = Verifier(runner=self.runner), self.stream.begun(number)

        def seen(case: Case, records: list[Record], got: dict[str, Result]) -> None:
            self.failures += [one for one in records if one.kind.failed]
            if len(batch.drawn) > skip:
                self.stream.append(
                    Checked(number, len(batch.drawn) - 1, str(case), got)
                )
                self.drawn += 1
            if len(batch.drawn) >= skip:
                self._stop_if_over()

        ports = [port for port in self.ports if op in port.ops]
        batch = Batch(self.job.plan, ports, verifier, op, known, seen)
        try:
            batch.run(hash((self.job.plan.seed, self.job.stream, number)), database)
        except Enough:
            # The rest is drawn when the campaign is resumed.
            self._study(number, known, verifier)
            raise
        return self._study(number, known, verifier)

    def _stop_if_over(self) -> None:
        cases = self.job.limits.cases
        full = cases is not None and self.drawn >= self.job.plan.share(
            cases, self.job.stream
        )
        if full or self.over():
            raise Enough

    def _replay(self, known: frozenset[Place]) -> set[Place]:
        """This stream's part of the corpus, as far as it was not replayed before."""
        place_of = self.job.plan.streams.index(self.job.stream)
        verifier, done = Verifier(runner=self.runner), self.stream.replayed()
        again = self.stream.unstudied(CORPUS)
        for number, line in enumerate(self.job.corpus):
            if number % self.job.plan.workers != place_of or (
                line in done and not again
            ):
                continue
            if self.over():
                raise Enough
            case = parse(line)
            ports = [port for port in self.ports if case.op in port.ops]
            records, results = checked(ports, case, verifier)
            self.failures += [one for one in records if one.kind.failed]
            if line not in done:
                self.stream.append(Checked(CORPUS, number, line, results))
        return self._study(CORPUS, known, verifier)

    def _study(
        self, number: int, known: frozenset[Place], verifier: Verifier
    ) -> set[Place]:
        """Study and write what failed at new places; returns those."""
        new = {
            place(record): record
            for record in reversed(self.failures)
            if place(record) not in known
        }
        self.failures.clear()
        for where, record in new.items():
            seconds = self.job.study
            study = studied([record], self.ports, verifier, seconds=seconds)[0].study
            smallest = record if study is None else study.smallest
            cause = "" if study is None else study.cause
            self.stream.append(
                Found(
                    number, *where, str(record.kind), cause, smallest.case, record.case
                )
            )
        return set(new)
