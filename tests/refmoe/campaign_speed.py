"""How many cases one process of a campaign checks in a second of its processor.

    python tests/refmoe/campaign_speed.py --cases 3000 --json FILE [PORT]

Told beside it: which part of the time went into drawing, steering and keeping what was
done. Processor time, since others may use the machine; but how long a command takes to
its first case is told by the clock, of several times.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from refmoe.campaign.batch import Batch
from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.state import Stream, path_of
from refmoe.campaign.stream import Job, run
from refmoe.cli.hosting import Hosting
from refmoe.loading import load
from refmoe.worker.runner import InProcess
from tests.refmoe.campaign_memory import ROOT, about

PORT = "refmoe.gallery.honest:sequential"
#: Parts of the work: where they are done.
PARTS: dict[str, tuple[tuple[type, str], ...]] = {
    "a case that was drawn": ((Batch, "_one"),),
    "steering": ((Batch, "_lead"),),
    "keeping": ((Stream, "append"), (Stream, "sync")),
}


@contextmanager
def clocked(spent: Counter[str]) -> Iterator[None]:
    """Within it, the seconds of each part are added up."""

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments)
            finally:
                spent[name] += time.process_time() - start

        return timed

    with ExitStack() as stack:
        for name, places in PARTS.items():
            for owner, method in places:
                function = around(name, getattr(owner, method))
                stack.enter_context(patch.object(owner, method, function))
        yield


def measured(port: str, cases: int) -> dict[str, float]:
    """Cases per second and parts of the whole, in this process."""
    torch.set_num_threads(1)
    plan, spent = Plan((port,), workers=1), Counter[str]()
    ports = [load(port)]
    with tempfile.TemporaryDirectory() as folder, clocked(spent):
        job = Job(plan, 0, Path(folder), Hosting(True), Limits(cases), study=0.0)
        start = time.process_time()
        run(job, ports, InProcess(), lambda: False)
        seconds = time.process_time() - start
    drawing = seconds - spent["a case that was drawn"]
    return {
        "cases": cases,
        "seconds": round(seconds, 2),
        "cases per second": round(cases / seconds, 1),
        "drawing": round(drawing / seconds, 3),
        "steering": round(spent["steering"] / seconds, 3),
        "keeping": round(spent["keeping"] / seconds, 3),
    }


def first_case(port: str, times: int, *options: str) -> list[float]:
    """Seconds from the command to its first case, judged and written down."""
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "refmoe", "fuzz", port, "--cases", "1", "-n", "1",
                "--quiet", "--state", folder, *options,
            ]  # fmt: skip
            start, path = time.monotonic(), path_of(Path(folder), 0)
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            while process.poll() is None:
                if path.exists() and path.stat().st_size:
                    found.append(round(time.monotonic() - start, 2))
                    break
                time.sleep(0.005)
            process.wait()
    return sorted(found)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", default=PORT)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--times", type=int, default=5, help="of each first case")
    parser.add_argument("--json", type=Path)
    known = parser.parse_args(arguments)
    found: dict[str, Any] = {**about(), **measured(known.port, known.cases)}
    found["first case, seconds"] = {
        "with workers": first_case(known.port, known.times),
        "in process": first_case(known.port, known.times, "--in-process"),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if known.json:
        known.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
