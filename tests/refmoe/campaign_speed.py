"""How many cases one process of a campaign checks in a second of its processor.

    python tests/refmoe/campaign_speed.py --cases 3000 --json FILE [PORT]

Told beside it: which part of the time went into drawing, steering and keeping what was
done. Processor time, since others may use the machine.
"""

from __future__ import annotations

import argparse
import json
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
from refmoe.campaign.state import Stream
from refmoe.campaign.stream import Job, run
from refmoe.cli.hosting import Hosting
from refmoe.loading import load
from refmoe.worker.runner import InProcess
from tests.refmoe.campaign_memory import about

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


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", nargs="?", default=PORT)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    known = parser.parse_args(arguments)
    found = {**about(), **measured(known.port, known.cases)}
    text = json.dumps(found, indent=1)
    print(text)
    if known.json:
        known.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
