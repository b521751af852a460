"""How long first calls take, each in a fresh process: cold, and from the disk cache.

`python3 tests/kernels/on_gpu/first_calls.py --json FILE` alone; `--cores 2` keeps each
process to two. PyTorch and CuPy are imported and the GPU is at work before the clock
starts. `--emulate` tries it without a GPU: kernels compile for an H100 and none runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]

import torch
from on_gpu.first_lines import calls

from refmoe.case import Case
from refmoe.kernels import cache, launch, loader, port
from refmoe.parse import parse
from refmoe.problem import Problem, build, move
from refmoe.protocol import OPS

_TARGET = "sm_90a"


@dataclass(frozen=True, slots=True)
class First:
    """Seconds of an op's first call, of every core together, and what it compiled.

    `warm` is the same from the disk cache, `later` the second call after that.
    """

    case: str
    tactic: str | None
    cold: float
    warm: float
    later: float
    cold_cores: float
    kernels: int

    def __str__(self) -> str:
        times = f"{self.cold:6.3f} s cold ({self.cold_cores:.2f} of all cores)"
        times += f", {self.warm * 1e3:5.1f} ms warm, {self.later * 1e3:5.2f} ms later"
        return f"{times}, {self.kernels:2} kernels: {self.case} {self.tactic or ''}"


class _Compiling:
    """A backend without a GPU: kernels come from the cache, and none runs."""

    kind = "cpu"

    def target(self, device: torch.device) -> str:
        return _TARGET

    def run(self, kernel: launch.Kernel, *rest: Any) -> None:
        key = (kernel.file, kernel.expression)
        if key not in _loaded:
            _loaded.add(key)
            loader._image(*key, _TARGET)
        for argument in rest[2]:
            if isinstance(argument, torch.Tensor) and argument.dtype == torch.int32:
                argument.zero_()  # PyTorch may use them as indices.


_loaded: set[tuple[str, str]] = set()


def timed(line: str, tactic: str | None, device: str, cores: int) -> First:
    """One first call with an empty cache folder, one with what that left there."""
    op, _, rest = line.partition(" ")
    case = parse(f"{'moe' if op == 'prepare' else op} {rest}")
    run = partial(_run, op, case, tactic, device, cores)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REFMOE_CACHE_DIR"] = folder
        cold, warm = _elsewhere(run), _elsewhere(run)
    return First(
        line, tactic, cold.first, warm.first, warm.later, cold.cores, cold.kernels
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Seconds of the first call, of all cores in it, of a later one; kernels built."""

    first: float
    cores: float
    later: float
    kernels: int


def _run(op: str, case: Case, tactic: str | None, device: str, cores: int) -> _Run:
    """Two calls in a process that has made none."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    problem = build(case)
    if device == "cuda":
        import cupy

        torch.ones(1, device=device).mul_(2)
        cupy.cuda.runtime.getDevice()
    with nullcontext() if device == "cuda" else launch.through(_Compiling()):
        call = _call(op, problem, tactic, device)
        before, spent = _kernels(), time.process_time()
        first = _seconds(call, device)
        spent = time.process_time() - spent
        return _Run(first, spent, _seconds(call, device), _kernels() - before)


def _kernels() -> int:
    return len(list(cache.folder().glob("*.json")))


def _call(
    op: str, problem: Problem, tactic: str | None, device: str
) -> Callable[[], object]:
    params = move(problem.params, device)
    if op == "prepare":
        return partial(port.prepare, params, problem.layer)
    given = {"params": params, "layer": problem.layer, "top_k": problem.layer.top_k}
    given |= {name: move(value, device) for name, value in problem.inputs.items()}
    keywords = {name: given[name] for name in ("token_ids",) if name in given}
    if op in ("moe", "experts"):
        keywords["prepared"] = port.prepare(params, problem.layer)
    if tactic is not None:
        keywords["tactic"] = tactic
    arguments = [given[field.name] for field in OPS[op].arguments]
    return partial(getattr(port, OPS[op].function), *arguments, **keywords)


def _seconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _elsewhere(run: Callable[[], _Run]) -> _Run:
    """`run` in a fork of this process, which has imported PyTorch and has no GPU."""
    fork = get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    process = fork.Process(target=_answer, args=(run, send))
    process.start()
    send.close()
    try:
        answer: _Run | str = receive.recv()
    except EOFError:
        answer = "the process died"
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _answer(run: Callable[[], _Run], send: Connection) -> None:
    try:
        send.send(run())
    except Exception as error:
        send.send(f"{type(error).__name__}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="the lines that hold this text")
    parser.add_argument("--emulate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = "cpu" if options.emulate else "cuda"
    start, found, failed = time.perf_counter(), [], []
    wanted = [call for call in calls() if options.only in f"{call[0]} {call[1]}"]
    if not wanted:
        parser.error(f"--only {options.only!r}: no call has that in its line")
    for line, tactic in wanted:
        if tactic == "cublas" and options.emulate:
            continue
        try:
            found.append(timed(line, tactic, device, options.cores))
            print(found[-1], flush=True)
            if options.json:  # As it comes: a run that is cut off has said something.
                made = {"cores": options.cores, "calls": [asdict(one) for one in found]}
                options.json.write_text(json.dumps(made, indent=1))
        except RuntimeError as error:
            failed.append(f"{line} {tactic}: {error}")
            print(failed[-1], flush=True)
    late = sum(first.cold > 1.0 for first in found)
    print(f"{len(found)} calls, {late} over 1 s, {len(failed)} failed")
    print(f"slowest, {time.perf_counter() - start:.0f} s in all:")
    for first in sorted(found, key=lambda first: -first.cold)[:3]:
        print(first)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
