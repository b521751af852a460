"""One mutant before the judge, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch

from fuzz.mutator.building import Build, Kernel, alone, in_turns, listed, users
from fuzz.mutator.cases import Item
from fuzz.mutator.mutants import Mutant
from fuzz.mutator.processes import Message, Tell
from fuzz.mutator.survey import brisk
from refmoe.kernels import emulated, emulator, loader
from refmoe.kernels.compiler import CompileError
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.plan import Cell
from refmoe.record import Record
from refmoe.score.properties import broken, of_cell
from refmoe.verdict import Kind
from refmoe.verify import Verifier

#: The property that is broken by a call that does not come back.
RETURNS = "contract:returns"
#: How the reason begins why a mutant never ran that changes something.
UNSEEN = "only in kernels that no case launches, as "
#: Cases of each changed kernel in the first rounds; in the last, all.
FIRST = (4, 16)
#: The order of threads in which the emulator runs what survived: warps run ahead.
AHEAD = 1


@dataclass(frozen=True, slots=True)
class Trial:
    """How mutants are tried."""

    port: str
    target: str
    folder: Path
    #: Seconds after which a survivor need not run its remaining cases.
    patience: float
    matrix: bool = False

    @property
    def emulated(self) -> bool:
        """Whether the emulator stands in for the GPU."""
        return self.port == emulated.name


def tried_all(
    trial: Trial,
    mutants: Sequence[Mutant],
    texts: Mapping[str, str],
    kernels: Mapping[Kernel, Sequence[Item]],
    tell: Tell,
) -> None:
    """Several mutants in one process, up to the first that breaks it."""
    for mutant in mutants:
        tell({"mutant": mutant.id, "at": ""})
        found = tried(trial, mutant, texts[mutant.file], kernels, tell)
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        if started and found["status"] != "crashed":
            try:
                torch.cuda.synchronize()
            except RuntimeError as error:
                late = {"killed_by": [RETURNS], "reason": str(error)[:200]}
                found = {**found, "status": "crashed", **late}
        tell({"result": found})
        if found["status"] == "crashed":
            return


def tried(
    trial: Trial,
    mutant: Mutant,
    text: str,
    kernels: Mapping[Kernel, Sequence[Item]],
    tell: Tell,
) -> Message:
    """The result of a mutant on the cases that launch what it changes."""
    start = time.monotonic()
    # Whatever the process that this one was forked from has loaded is unchanged.
    emulator._entry.cache_clear()
    loader._functions.clear()
    files = users(mutant.file)
    own = in_turns(kernel for kernel in kernels if kernel[0] in files)
    spare = [kernel for kernel in listed(files) if kernel not in kernels]
    with alone(trial.folder):
        build = Build(mutant, text, trial.target, trial.emulated)
        try:
            found = _result(trial, build, own, spare, kernels, tell)
        except CompileError as error:
            found = {"status": "not compiling", "reason": _first_error(str(error))}
    return {**found, "seconds": round(time.monotonic() - start, 2)}


def _result(
    trial: Trial,
    build: Build,
    own: Sequence[Kernel],
    spare: Sequence[Kernel],
    kernels: Mapping[Kernel, Sequence[Item]],
    tell: Tell,
) -> Message:
    stop = time.monotonic() + trial.patience
    ports, verifier = cache(load), Verifier()
    killed: list[Message] = []
    done: set[tuple[int, tuple[str, str]]] = set()

    def rounds() -> Iterator[tuple[int, Item]]:
        orders = (0, AHEAD) if trial.emulated else (0,)
        limits = FIRST if trial.matrix else (*FIRST, None)
        for limit, seed in product(limits, orders):
            for kernel in own:
                tell({"at": f"building {kernel[1]}"})
                if build.changes(kernel) and kernel not in build.beyond:
                    for item in kernels[kernel][:limit]:
                        if (seed, item.key) not in done:
                            done.add((seed, item.key))
                            yield seed, item

    for seed, item in rounds():
        if time.monotonic() > stop:
            break
        tell({"at": item.case})
        with build.applied(), _order(seed), brisk():
            case = parse(item.case, largest=None)
            record = verifier.check(ports(item.port), case, Cell(*item.cell))
        if record.kind.reported:
            killed.append({"port": item.port, **_killing(record, seed)})
            if not trial.matrix or record.kind is Kind.CRASHED:
                break
    if killed:
        status = "crashed" if killed[0]["verdict"] == "CRASHED" else "killed"
        names = list(dict.fromkeys(name for one in killed for name in one["killed_by"]))
        return {**killed[0], "status": status, "killed_by": names, "cases": len(done)}
    if build.beyond and not done:
        reason = "its kernels do not build for the emulator"
        return {"status": "never ran", "reason": reason}
    if any(build.known.values()):
        return {"status": "survived", "cases": len(done)}
    for kernel in spare:
        tell({"at": f"building {kernel[1]}"})
        if build.changes(kernel):
            reason = f"{UNSEEN}{kernel[1]}"
            return {"status": "never ran", "reason": reason}
    return {"status": "equivalent", "reason": "same machine code"}


@contextmanager
def _order(seed: int) -> Iterator[None]:
    """Within it the emulator runs threads in the order of `seed`."""
    with patch.object(emulated, "emulated", partial(emulator.emulated, seed)):
        yield


def _killing(record: Record, seed: int) -> Message:
    """What killed a mutant: the properties that it breaks, the tap, the case."""
    verdict, first = record.judgement.verdict, record.judgement.first
    bare = record.kind is Kind.WRONG and not verdict.tap
    names = [name for name, _ in broken(record, verdict.detail.split("; ") * bare)]
    if seed:
        # In the order of threads 0 it passes.
        names = ["order of threads"]
    return {
        "killed_by": names or [of_cell(record.cell)], "op": record.cell.op,
        "stage": (first.tap if first else "") or verdict.tap,
        "verdict": str(record.kind), "case": record.case,
        "detail": (verdict.detail or record.log).strip()[-200:],
    }  # fmt: skip


def _first_error(log: str) -> str:
    lines = [line for line in log.splitlines() if "error" in line or "C75" in line]
    return (lines or log.splitlines() or [""])[0][:200]
