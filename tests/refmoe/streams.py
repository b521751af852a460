"""What tests of campaigns share: a stream drawn in this process, and its lines."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.state import Checked, Line, path_of, read
from refmoe.campaign.stream import Job, run
from refmoe.cli.hosting import Hosting
from refmoe.port import Port
from refmoe.worker.runner import InProcess

ROOT = Path(__file__).resolve().parents[2]
MISTAKE = "refmoe.gallery.mistakes:no_clamp"


def lines_of(
    folder: Path, ports: list[Port], cases: int, **given: object
) -> list[Line]:
    """The lines of one stream."""
    own = ("corpus", "database", "study")
    named = {key: given.pop(key) for key in own if key in given}
    plan = Plan(tuple(p.name for p in ports), workers=1, elements=1 << 10, **given)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(plan, 0, folder, Hosting(True), Limits(cases), **named)  # type: ignore[arg-type]
    run(job, ports, InProcess(), lambda: False)
    return read(path_of(folder, 0))


def checked_of(lines: Iterable[Line]) -> list[Checked]:
    return [line for line in lines if isinstance(line, Checked)]


def cases_of(lines: Iterable[Line]) -> list[str]:
    return [line.case for line in checked_of(lines)]


def failures(lines: Iterable[Line]) -> list[str]:
    """The cases in which MISTAKE is wrong."""
    return [
        line.case for line in checked_of(lines) if line.results[MISTAKE].kind == "WRONG"
    ]
