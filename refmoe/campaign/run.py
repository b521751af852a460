"""A run of a campaign: its processes, watched until they are done or told to stop."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from refmoe.campaign.batch import Place
from refmoe.campaign.hold import held
from refmoe.campaign.plan import claim
from refmoe.campaign.processes import context
from refmoe.campaign.state import Tail, path_of
from refmoe.campaign.stream import Job, work
from refmoe.campaign.totals import Totals
from refmoe.interrupt import interrupted

#: Seconds between two looks at the streams.
_PAUSE = 0.25
Watch = Callable[[Totals], None]


def totals(folder: Path) -> Totals:
    """What all streams in a state folder have done."""
    found = Totals()
    for path in sorted(folder.glob("stream-*.jsonl")):
        found.add(int(path.stem.partition("-")[2]), Tail(path).new())
    return found


@dataclass(frozen=True, slots=True)
class Done:
    """A run of a campaign: what the campaign has done so far, and this run of it."""

    totals: Totals
    #: Cases that this run checked, and its seconds.
    cases: int
    seconds: float
    #: The streams and places at which it met failures.
    failed: frozenset[tuple[int, Place]] = frozenset()
    #: What went wrong with its processes.
    ended: tuple[str, ...] = ()
    #: Whether it was told to stop.
    interrupted: bool = False


def campaign(job: Job, watch: Watch = lambda totals: None) -> Done:
    """Run or resume the shard that `job` plans.

    Ctrl-C and SIGTERM stop it after the present cases, a second Ctrl-C at once. Raises
    ValueError if the state folder belongs to another campaign, cannot be written or is
    in use.
    """
    claim(job.folder, job.plan)
    with held(job.folder):
        return _run(job, watch)


def _run(job: Job, watch: Watch) -> Done:
    made = context()
    stop = made.Event()
    processes: dict[int, BaseProcess] = {
        number: made.Process(
            target=work,
            args=(replace(job, stream=number), stop.is_set),
            name=f"stream {number}",
        )
        for number in job.plan.streams
    }
    tails = {number: Tail(path_of(job.folder, number)) for number in processes}
    found = Totals()

    def look() -> None:
        for number, tail in tails.items():
            found.add(number, tail.new())

    look()
    before, start = found.checked, time.monotonic()
    failures = Counter(found.failures)

    def asked() -> None:
        stop.set()
        os.write(2, b"stopping after the present cases; once more: at once\n")

    alive = []
    with interrupted(asked):
        try:
            for process in processes.values():
                process.start()
                alive.append(process)
            while alive:
                wait([process.sentinel for process in alive], _PAUSE)
                alive = [process for process in alive if process.is_alive()]
                look()
                watch(found)
        finally:
            for process in alive:
                process.kill()
    ended = tuple(
        f"{process.name} ended with status {process.exitcode}; what it had checked is "
        "kept, and the same command goes on"
        for process in processes.values()
        if process.exitcode
    )
    seconds = time.monotonic() - start
    failed = frozenset(found.failures - failures)
    return Done(found, found.checked - before, seconds, failed, ended, stop.is_set())
