"""How many small cases a second campaigns check on one GPU, by number of processes.

    python3 tests/kernels/on_gpu/cases_per_second.py --json FILE [-n 8 16]

First a campaign that compiles what the others launch; then the same draws for each
number of processes, with workers and without, from its first case on. Beside it: cores
and GPU in use, what was told, how long a stream is held back, and, with --profile,
where one process spends its time.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import platform
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))
PORT = "refmoe.kernels"


def checked(folder: Path) -> int:
    """Cases that are written down."""
    return sum(one.read_bytes().count(b'"checked"') for one in folder.glob("stream-*"))


def gpu() -> tuple[float, float] | None:
    """Per cent of the time in which a kernel ran, and MiB in use."""
    command = [
        "nvidia-smi", "--query-gpu=utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
    ]  # fmt: skip
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        use, memory = found.stdout.split(",")
        return float(use), float(memory)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def campaign(
    port: str, processes: int, seconds: float, seed: int, *options: str
) -> dict[str, Any]:
    """A campaign of so many seconds, looked at every half second."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "state"
        command = [
            sys.executable, "-m", "refmoe", "fuzz", port, "-n", str(processes),
            "--minutes", str(seconds / 60), "--seed", str(seed), "--study", "2",
            "--state", str(folder), "--quiet", *options,
        ]  # fmt: skip
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        looks, uses = [(0.0, 0)], []
        while process.poll() is None:
            time.sleep(0.5)
            looks.append((time.monotonic() - start, checked(folder)))
            uses.append(gpu())
        told = process.communicate()[0].splitlines()
        wall, after = (
            time.monotonic() - start,
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
    began = next((look for look in looks if look[1]), looks[-1])
    # Until the streams were told to end, the last cases may take their time.
    ended = max((look for look in looks if look[0] <= seconds), default=looks[-1])
    middle = next(look for look in looks if look[0] >= (began[0] + ended[0]) / 2)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seen = [use for use in uses if use is not None]
    return {
        "options": list(options), "processes": processes, "cases": looks[-1][1],
        "first_case_within": round(began[0], 2), "wall": round(wall, 1),
        "rate": rate(began, ended), "rate_second_half": rate(middle, ended),
        "cores": round(cpu / wall, 2), "status": process.returncode,
        "gpu_busy": round(sum(use for use, _ in seen) / len(seen)) if seen else None,
        "gpu_mib": max((memory for _, memory in seen), default=None),
        "told": told[-12:],
    }  # fmt: skip


def rate(first: tuple[float, int], last: tuple[float, int]) -> float:
    """Cases a second between two looks."""
    return round((last[1] - first[1]) / max(last[0] - first[0], 1e-9), 1)


def held() -> dict[str, Any]:
    """How long a stream is held back, and what another one does meanwhile.

    First, whether the commands' processes are forks here.
    """
    import torch

    from refmoe.guard.hold import hold
    from refmoe.worker.nursery import untouched

    found: dict[str, Any] = {"commands_fork": untouched()}
    torch.cuda.synchronize()
    streams: Any = torch.cuda.Stream
    stream, other = streams(), streams()
    for _turn in range(2):
        start = time.perf_counter()
        with torch.cuda.stream(stream):
            hold(stream, 20_000_000)
        found["queued_ms"] = round(1e3 * (time.perf_counter() - start), 3)
        with torch.cuda.stream(other):
            torch.ones(1 << 20, device="cuda").sum()
        other.synchronize()
        found["other_stream_ms"] = round(1e3 * (time.perf_counter() - start), 3)
        stream.synchronize()
        found["held_ms"] = round(1e3 * (time.perf_counter() - start), 3)
    return found


def profiled(port: str, cases: int) -> str:
    """Where a process that runs the port itself spends its time."""
    from refmoe.campaign.plan import Limits, Plan
    from refmoe.campaign.stream import Job, run
    from refmoe.cli.hosting import Hosting
    from refmoe.loading import load
    from refmoe.worker.runner import InProcess

    ports, profile, text = [load(port)], cProfile.Profile(), io.StringIO()
    for seed in (1, 2):
        with tempfile.TemporaryDirectory() as place:
            plan = Plan((port,), workers=1, seed=seed)
            job = Job(plan, 0, Path(place), Hosting(True), Limits(cases), study=0.0)
            if seed == 2:
                profile.enable()
            run(job, ports, InProcess(), lambda: False)
    profile.disable()
    stats = pstats.Stats(profile, stream=text)
    stats.sort_stats("tottime").print_stats(40)
    stats.sort_stats("cumtime").print_stats(60)
    return text.getvalue()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("-n", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--warm", type=float, default=60.0)
    parser.add_argument("--port", default=PORT)
    parser.add_argument("--profile", type=Path, help="write where the time goes")
    parser.add_argument("--part", choices=("held", "profile"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part == "held":
        print(json.dumps(held()))
        return 0
    if given.part == "profile":
        print(profiled(given.port, 500))
        return 0

    def part(name: str) -> str:
        # In a process that ends: a context that stays would share the GPU.
        command = [sys.executable, __file__, "--part", name, "--port", given.port]
        place = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=place, capture_output=True, text=True)
        return done.stdout if not done.returncode else json.dumps(done.stderr[-2000:])

    import torch

    found: dict[str, Any] = {
        "command": ["cases_per_second.py", *arguments], "port": given.port,
        "python": platform.python_version(), "torch": torch.__version__,
        "cores": os.cpu_count(), "held": json.loads(part("held")), "runs": [],
    }  # fmt: skip
    print(found["held"], flush=True)

    def ran(*run: Any) -> None:
        made = campaign(given.port, *run)
        found["runs"].append(made)
        print({key: made[key] for key in made if key != "told"}, flush=True)
        print("\n".join(made["told"][-3:]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n")

    ran(max(given.n), given.warm, 2, "--in-process")
    for count in given.n:
        ran(count, given.seconds, 2, "--in-process")
        ran(count, given.seconds, 2)
    if given.profile:
        given.profile.write_text(part("profile"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
