"""The side of a worker where foreign code runs: requests in, frames out.

What is asked is done in order. A `begin` frame goes ahead of everything that may end
this process, so that the other side knows what did.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from oracle.numerics import PRESETS
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.guard import Guards
from refmoe.laws import Law, law_called
from refmoe.laws.relation import Launch, drive
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.problem import Problem, build
from refmoe.runner import run
from refmoe.verdict import Outcome
from refmoe.worker.channel import Frame, digest, receive, send
from refmoe.worker.codec import decoded, encoded
from refmoe.worker.facts import facts_frame
from refmoe.worker.parcel import inputs_of, outcome_frame, problem_of

#: Bytes of output after which the log starts again.
_LONGEST_LOG = 1 << 20
#: Words of an exception after which a CUDA context answers nothing any more.
_STICKY = ("CUDA error", "CUDA_ERROR_", "cudaError")
#: Problems that tactics and ports share.
_KEPT = 64


@dataclass(slots=True)
class Child:
    """One life of a worker."""

    channel: socket.socket
    files: list[int]
    log: int
    ports: dict[str, Port] = field(default_factory=dict)
    problems: dict[Case, Problem] = field(default_factory=dict)
    guards: Guards = field(default_factory=Guards)
    number: int = 0
    at: int = 0
    broken: bool = False

    def serve(self) -> None:
        """Answer until the other end closes."""
        while (request := receive(self.channel)) is not None:
            self.number, self.at, self.broken = request["id"], 0, False
            self.begin("", "load")
            answer: Frame = {}
            try:
                answer["answer"] = self.answer(request)
            except Exception as error:
                answer["error"] = [type(error).__name__, str(error)[:4000]]
            self.say("end", retire=self.broken, **answer)

    def say(self, what: str, **frame: Any) -> None:
        """One frame of the request that is being answered."""
        send(self.channel, {"id": self.number, "say": what, **frame})

    def begin(self, name: str, kind: str) -> None:
        """From now on the port is to blame: what follows is its code."""
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fstat(self.log).st_size > _LONGEST_LOG:
            os.ftruncate(self.log, 0)
            os.lseek(self.log, 0, os.SEEK_SET)
        size = os.fstat(self.log).st_size
        self.say("begin", name=name, kind=kind, log=size, time=time.monotonic())

    def answer(self, request: Frame) -> Any:
        """What the request asks for."""
        target = request["port"]
        if target not in self.ports:
            self.ports[target] = load(target)
        port, what = self.ports[target], request["do"]
        if what == "load":
            return facts_frame(port)
        if what == "unsupported":
            return port.unsupported(parse(request["case"], largest=None))
        if what == "definition":
            return [
                encoded(p) for p in port.definition(decoded(Layer, request["layer"]))
            ]
        file = self.files[request["slot"]]
        if what == "problem":
            problem = problem_of(request["problem"], file)
            self.run(port, problem, self.tactic(port, problem, request), "", file)
        else:
            self.case(port, request, file)
        return None

    def tactic(self, port: Port, problem: Problem, request: Frame) -> Any:
        """The tactic that a request names by its place."""
        index = request.get("tactic")
        return None if index is None else port.tactics(problem.case)[index]

    def case(self, port: Port, request: Frame, file: int) -> None:
        """Every tactic of a case, or the launches of its law; those of `done` not."""
        case = parse(request["case"], largest=None)
        self.begin("", "ask")
        reason = port.unsupported(case)
        if reason is not None:
            self.say("facts", reason=reason)
            return
        problem = self.problem(case.but(law=None))
        definition = port.definition(problem.layer)
        # The type of the results follows from it.
        problem = problem.but(numerics=definition[1])
        if case.numerics is not None:
            problem = problem.but(numerics=PRESETS[case.numerics])
        defined = [encoded(part) for part in definition]
        names = [None if one is None else str(one) for one in port.tactics(case)]
        layer = encoded(problem.layer)
        self.say("facts", reason=None, layer=layer, definition=defined, tactics=names)
        if case.law is not None:
            law = law_called(case.law)
            if law.objection(problem.case, port) is None:
                self.law(law, port, problem, file)
            return
        for index, tactic in enumerate(port.tactics(case)):
            if index not in request["done"]:
                self.run(port, problem, tactic, str(index), file)

    def problem(self, case: Case) -> Problem:
        """The case's problem, kept for the other ports."""
        if case not in self.problems:
            self.problems[case] = build(case)
        if len(self.problems) > _KEPT:
            del self.problems[next(iter(self.problems))]
        return self.problems[case]

    def law(self, law: Law, port: Port, problem: Problem, file: int) -> None:
        """The launches of a law, as `refmoe.laws.launched` has them."""
        memories: dict[str, dict[str, Any]] = {}
        given = None if problem.case.tactic is None else port.tactics(problem.case)[0]

        def launched(step: Launch) -> Outcome:
            memory = memories.setdefault(step.memory or f"of {step.name}", {})
            tactic = given if step.tactic is None else step.tactic
            return self.run(
                port, step.problem, tactic, step.name, file,
                memory=memory, captured=step.captured,
            )  # fmt: skip

        drive(law.steps(problem, port), launched)

    def run(
        self,
        port: Port,
        problem: Problem,
        tactic: Any,
        name: str,
        file: int,
        **place: Any,
    ) -> Outcome:
        """Launch, and say what came of it."""
        inputs = digest(inputs_of(problem))
        self.begin(name, "call")
        outcome = run(port, problem, tactic, guards=self.guards, **place)
        if outcome.status == "crashed":
            self.broken = any(word in outcome.log for word in _STICKY)
        frame, self.at = outcome_frame(outcome, file, self.at)
        self.say("outcome", name=name, outcome=frame, inputs=inputs)
        return outcome


def live(
    channel: socket.socket, files: list[int], log: int, memory: int | None
) -> None:
    """A life from its first request to its last; returns at the end of the channel."""
    faulthandler.enable(os.dup(log))
    # The terminal's interrupt is for the judge, which ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory is not None:
        taken = int(Path("/proc/self/statm").read_text().split()[0])
        most = memory + taken * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for target, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(log, target)
        setattr(sys, name, open(target, "w", buffering=1, closefd=False))
    torch.set_num_threads(1)
    Child(channel, files, log).serve()
