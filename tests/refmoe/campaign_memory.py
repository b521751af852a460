"""Whether the processes of a campaign keep the memory that they began with.

    python tests/refmoe/campaign_memory.py --minutes 60 --json FILE PORT [OPTIONS]

Runs `refmoe fuzz PORT OPTIONS` and reads the resident memory of its processes from
/proc every half minute. Flat: the median of the last quarter is no larger than the
largest of the first half, when every cache has been filled. Exits with 1 if it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """MiB of the command, and of all processes that draw and judge, after a time."""

    seconds: float
    cases: int
    command: float
    workers: float


def descendants(process: int) -> Iterator[int]:
    """Every process below this one."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold anything; the parent follows the state.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting = [process]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            waiting.append(child)
            yield child


def resident(process: int) -> float:
    """MiB of memory; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * PAGE / (1 << 20)


def sampled(given: list[str], minutes: float, every: float) -> list[Sample]:
    """Run a campaign in a new state, and look at it until it ends."""
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "refmoe", "fuzz", *given, "--minutes",
            str(minutes), "--state", folder, "--quiet",
        ]  # fmt: skip
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT)
        following = start + every
        while process.poll() is None:
            time.sleep(min(1.0, every))
            if time.monotonic() < following:
                continue
            following += every
            samples.append(
                Sample(
                    round(time.monotonic() - start, 1),
                    cases(Path(folder)),
                    round(resident(process.pid), 1),
                    round(sum(map(resident, descendants(process.pid))), 1),
                )
            )
    # The last look may meet processes that are ending.
    return samples[:-1]


def cases(folder: Path) -> int:
    """How many cases were checked."""
    return sum(
        path.read_bytes().count(b'"checked"') for path in folder.glob("stream-*")
    )


def flat(samples: list[Sample]) -> bool:
    """Whether the last quarter's median is within what the first half reached."""
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples say nothing; run for longer")
    half, quarter = len(samples) // 2, len(samples) // 4
    return all(
        statistics.median(getattr(one, name) for one in samples[-quarter:])
        <= max(getattr(one, name) for one in samples[:half])
        for name in ("command", "workers")
    )


def about() -> dict[str, Any]:
    """Versions, and the commit."""
    import hypothesis
    import torch

    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(), "torch": torch.__version__,
        "hypothesis": hypothesis.__version__, "machine": platform.platform(),
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("fuzz", nargs=argparse.REMAINDER, help="PORT and its options")
    known = parser.parse_args(arguments)
    told = about()
    samples = sampled(known.fuzz, known.minutes, known.every)
    fine = flat(samples)
    found = {
        "command": ["campaign_memory.py", *arguments], **told, "flat": fine,
        "cases": samples[-1].cases, "samples": [asdict(one) for one in samples],
    }  # fmt: skip
    if known.json:
        known.json.write_text(json.dumps(found, indent=1) + "\n")
    first, last = samples[len(samples) // 4], samples[-1]
    print(f"{last.cases} cases; workers {first.workers} MiB, at the end {last.workers}")
    print("flat" if fine else "GROWS")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
