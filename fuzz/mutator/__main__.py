"""`python -m fuzz.mutator run --json FILE`: mutants of the kernels before the judge.

`run` judges a sample, on a GPU or, with `--emulate`, without one; the same command goes
on where it was killed. `compile` only finds out which mutants compile. `show` prints a
report, with what is known by now of its survivors. Mutants and the order in which they
run depend on sources and seed alone; a report outlives edits (selection.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from fuzz.mutator import report as reports
from fuzz.mutator.building import Kernel, alone
from fuzz.mutator.cases import Item, Plan, item_of
from fuzz.mutator.mutants import Mutant, files
from fuzz.mutator.options import PROFILES, parsed
from fuzz.mutator.processes import Pool, Task, Tell, in_order
from fuzz.mutator.report import Report
from fuzz.mutator.selection import taken_up
from fuzz.mutator.survey import by_kernel, survey
from fuzz.mutator.trial import RETURNS, UNSEEN, Trial, tried_all
from refmoe.kernels import compiler, emulated
from refmoe.kernels.source import replaced
from refmoe.loading import load
from refmoe.report.about import versions

#: Mutants that one process on a GPU takes in turn.
_BATCH = 8


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; 0, or 2 where there is nothing to do."""
    options = parsed(words, __doc__)
    torch.set_num_threads(1)
    texts = files()
    known = reports.explanations()
    if options.do == "show":
        report = reports.read(options.json)
        report.explain(known)
        report.write(options.json)
        print(reports.shown(report))
        return 0
    report, among = taken_up(options.json, texts, options.among, options.seed)
    chosen = [
        mutant
        for mutant in among.values()
        if (not options.file or mutant.file in options.file)
        and (not options.operator or mutant.operator in options.operator)
    ][: options.count]
    until = time.monotonic() + 60 * options.minutes
    again = {"never ran", *options.again}
    waiting = []
    for mutant in chosen:
        if mutant.id not in report.mutants:
            report.enter(mutant, {})
        if report.mutants[mutant.id]["status"] not in again:
            continue
        reason = known.get(reports.key_of(reports.described(mutant)))
        if reason is not None and reason.kind == "equivalent" and not options.doubt:
            report.enter(mutant, {"status": "equivalent", "reason": reason.reason})
        else:
            waiting.append(mutant)
    # Whoever edits a kernel meanwhile does not disturb the run.
    with tempfile.TemporaryDirectory() as folder, replaced(texts):
        pool = Pool(options.n, options.deadline, until)
        run = _Run(options, texts, report, Path(folder), pool)
        run.about()
        kernels = {} if options.do == "compile" else run.surveyed()
        run.judge(waiting, kernels)
    report.explain(known)
    report.write(options.json)
    print(reports.shown(report))
    return 0


class _Run:
    """One run: its options, what it reads and where it writes."""

    def __init__(
        self, options: argparse.Namespace, texts: dict[str, str], report: Report,
        folder: Path, pool: Pool,
    ) -> None:  # fmt: skip
        self.options, self.texts, self.report = options, texts, report
        self.pool, self.written, self.device = pool, 0.0, ""
        #: What the report says of this run; it may be one of several.
        self.run: dict[str, Any] = {}
        port = emulated.name if options.emulate else "refmoe.kernels"
        cases, others, hearings = PROFILES[options.profile]
        self.plan = Plan(port, cases, others, hearings, tuple(options.op))
        target = "sm_90a" if options.emulate or options.do == "compile" else ""
        self.trial = Trial(port, target, folder, options.patience, options.matrix)

    def about(self) -> None:
        """Say on what the run takes place; a process of its own asks the GPU."""
        # What the port and the compiler load is loaded once, for all processes.
        load(self.plan.port)
        compiler.compile_text("__global__ void empty() {}", ("empty",), "sm_90a")
        found = {"device": "emulator", "target": self.trial.target}
        if not self.trial.target:

            def ask(tell: Tell) -> None:
                from refmoe.kernels.loader import target_for

                name = torch.cuda.get_device_name()
                tell({"device": name, "target": target_for(0)})

            found = dict(next(self.pool.run(in_order(iter([("device", ask)]))))[1])
            if "error" in found:
                raise SystemExit(f"no GPU: {found['error']}; give --emulate")
            self.trial = Trial(
                self.trial.port, found["target"], self.trial.folder,
                self.trial.patience, self.trial.matrix,
            )  # fmt: skip
        self.device = found["device"]
        self.run = {
            **found, "versions": versions(), "profile": self.options.profile,
            "ops": self.options.op, "files": self.options.file or [],
        }  # fmt: skip
        self.report.about.setdefault("runs", []).append(self.run)

    def surveyed(self) -> dict[Kernel, list[Item]]:
        """The cases by kernel; what the unchanged kernels fail is told and left out.

        They are kept beside the report, for the run that goes on.
        """
        start = time.monotonic()
        kept = self.options.json.with_suffix(".survey.json")
        about = {"sources": self.report.about["sources"], "plan": asdict(self.plan)}
        about = json.loads(json.dumps(about))
        found = json.loads(kept.read_text()) if kept.exists() else {}
        if found.get("about") == about:
            items = [item_of(item) for item in found["items"]]
        else:
            patient = max(300.0, self.pool.deadline)
            pool = Pool(self.pool.workers, patient, self.pool.until)
            # The emulator's libraries of whole files are there already; machine code
            # is wanted kernel by kernel.
            with nullcontext() if self.options.emulate else alone(self.trial.folder):
                items = survey(self.plan, pool)
            whole = {"about": about, "items": [asdict(item) for item in items]}
            if time.monotonic() < self.pool.until:
                kept.write_text(json.dumps(whole))
        failing = [f"{item.verdict} {item.case}" for item in items if item.reported]
        self.run |= {"cases": len(items), "not counted": failing}
        print(f"{len(items)} cases in {time.monotonic() - start:.0f} s", flush=True)
        for line in failing:
            print(f"  not counted: {line}")
        return by_kernel(items)

    def judge(self, waiting: list[Mutant], kernels: dict[Kernel, list[Item]]) -> None:
        """Run the mutants; each result is written as it comes.

        A process takes several in turn; what one that breaks it leaves goes to another.
        """
        queue = deque(waiting)
        batches: dict[str, list[Mutant]] = {}
        at: dict[str, str] = {}
        numbers = count()

        def following() -> tuple[str, Task] | None:
            # The last ones are spread over all processes.
            share = len(queue) // self.pool.workers + 1
            size = 1 if self.trial.emulated else min(_BATCH, share)
            own = [queue.popleft() for _ in range(min(size, len(queue)))]
            if not own:
                return None
            name = str(next(numbers))
            batches[name] = list(own)
            return name, partial(tried_all, self.trial, own, self.texts, kernels)

        for name, message in self.pool.run(following):
            left = batches[name]
            at[name] = message.get("at", at.get(name, ""))
            if "result" in message:
                self.enter(left.pop(0), message["result"])
            elif "error" in message:
                found = {"status": "never ran", "reason": message["error"]}
                self.enter(left.pop(0), found)
                at[name] = "over"
            elif "ended" in message and left:
                if message["ended"] != 0 and at[name] != "over":
                    self.enter(left.pop(0), _died(message["ended"], at[name]))
                queue.extendleft(reversed(left))

    def enter(self, mutant: Mutant, found: dict[str, Any]) -> None:
        """One result."""
        if self.options.do == "compile":
            # There are no cases; what is left of the reason is a kernel that changes.
            reason = found.get("reason", "").replace(UNSEEN, "changes ")
            found = {**found, "reason": reason}
        self.report.enter(mutant, {**found, "device": self.device})
        line = f"{self.report.mutants[mutant.id]['status']:14} {mutant.id}"
        print(f"{line}  {', '.join(found.get('killed_by', ()))}", flush=True)
        if time.monotonic() - self.written > 1.0:
            self.report.write(self.options.json)
            self.written = time.monotonic()


def _died(status: object, at: str) -> dict[str, Any]:
    """The result of a process that said nothing of itself at its end."""
    case = "" if at.startswith("building") else at
    found = {"op": case.split(" ", 1)[0], "killed_by": [RETURNS], "case": case}
    if status == "hung":
        return {**found, "status": "hung"}
    reason = f"its process ended with {status}"
    return {**found, "status": "crashed", "reason": reason}


if __name__ == "__main__":
    sys.exit(main())
