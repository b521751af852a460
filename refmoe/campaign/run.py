"""A run of a campaign: its processes, watched until they are done or told to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

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


def campaign(job: Job, watch: Watch = lambda totals: None) -> tuple[Totals, list[str]]:
    """Run or resume the shard that `job` plans; returns its totals and what went wrong.

    Ctrl-C and SIGTERM stop it after the present cases. Raises ValueError if the state
    folder belongs to another campaign.
    """
    claim(job.folder, job.plan)
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
    with interrupted(stop.set):
        for process in processes.values():
            process.start()
        found = _watched(job.folder, processes, watch)
    ended = [
        f"{process.name} ended with status {process.exitcode}; what it had checked is "
        "kept"
        for process in processes.values()
        if process.exitcode
    ]
    return found, ended


def _watched(folder: Path, processes: dict[int, BaseProcess], watch: Watch) -> Totals:
    """Follow the streams until every process has ended."""
    found = Totals()
    tails = {number: Tail(path_of(folder, number)) for number in processes}
    alive = list(processes.values())
    while alive:
        wait([process.sentinel for process in alive], _PAUSE)
        alive = [process for process in alive if process.is_alive()]
        for number, tail in tails.items():
            found.add(number, tail.new())
        watch(found)
    return found
