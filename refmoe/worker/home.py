"""Where the ports of one module live: their worker at present, and what it is asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from refmoe.verdict import Outcome
from refmoe.worker.channel import Frame, Garbled
from refmoe.worker.host import SLOTS, Ended, Host, Worker
from refmoe.worker.parcel import outcome_of, problem_frame
from refmoe.worker.ticket import Ticket, autopsy

#: Times that a request is sent again because its worker ended before it began.
_LOST = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a call may take, the first one of its op and tactic in a worker
    (which compiles) and every other; bytes that a port may take beside torch's own."""

    run: float = 30.0
    compile: float = 180.0
    memory: int | None = None


@dataclass(slots=True)
class Home:
    """Requests go out in order, answers come back in order; a dead worker is replaced.

    What had begun when a worker ended is to blame for it, and for nothing else: all
    other requests are sent again.
    """

    host: Host
    limits: Limits
    targets: set[str] = field(default_factory=set)
    worker: Worker | None = None
    queue: deque[Ticket] = field(default_factory=deque)
    #: Answered cases that nobody has asked for yet.
    kept: list[Ticket] = field(default_factory=list)
    #: The port that has failed in this worker.
    tainted: str = ""

    @property
    def room(self) -> bool:
        """Whether a request may be sent without waiting for another to be done."""
        return len(self.queue) < SLOTS

    def submit(self, ticket: Ticket) -> None:
        """Send a request; waits for room."""
        while not self.room:
            self.advance()
        self.queue.append(ticket)
        if self.worker is not None:
            self._fill(self.worker)

    def until(self, ticket: Ticket, ready: Callable[[Ticket], bool]) -> None:
        """Go on until the ticket is ready, or done."""
        while not (ticket.done or ready(ticket)):
            self.advance()

    def leave_to(self, target: str) -> None:
        """A port's turn: it does not get the worker in which another one failed.

        What other ports have been answered there and not yet read is asked again.
        """
        if self.tainted in ("", target):
            return
        again = [ticket for ticket in self.kept if ticket.target != self.tainted]
        self.kept = [ticket for ticket in self.kept if ticket not in again]
        asked = [*again, *(ticket for ticket in self.queue if not ticket.read)]
        for ticket in asked:
            ticket.reset()
        self.queue = deque(sorted(asked, key=lambda ticket: ticket.request["id"]))
        self._replace()

    def advance(self) -> None:
        """Take the next frame of the request that is first in the queue."""
        if self.worker is None:
            self.worker = Worker.born(self.host, self.limits.memory)
            for ticket in self.queue:
                ticket.slot, ticket.step = None, None
            self._fill(self.worker)
        head, worker = self.queue[0], self.worker
        limit, option = self._limit(head, worker)
        try:
            frame = worker.receive(head.since + limit)
            if frame is None:
                sentence = f"no result within {limit:g} s ({option})"
                self._bury("hung", sentence)
                return
            self._take(head, worker, frame)
        except Garbled as garbled:
            self._bury("crashed", f"the worker sent {garbled}")
        except Ended as ended:
            self._bury("crashed", str(ended))

    def _fill(self, worker: Worker) -> None:
        """Send what waits, as long as there are files for its tensors."""
        for ticket in self.queue:
            if ticket.slot is None and worker.free:
                ticket.slot, ticket.since = worker.free.pop(), time.monotonic()
                frame = {**ticket.request, "slot": ticket.slot}
                if ticket.problem is not None:
                    file = worker.files[ticket.slot]
                    frame["problem"] = problem_frame(ticket.problem, file)
                worker.send(frame)

    def _limit(self, ticket: Ticket, worker: Worker) -> tuple[float, str]:
        """Seconds that the present step may take, and the option that says so."""
        if ticket.step and ticket.step[1] == "call" and _call(ticket) in worker.called:
            return self.limits.run, "--deadline"
        return self.limits.compile, "--compile-deadline"

    def _take(self, ticket: Ticket, worker: Worker, frame: Frame) -> None:
        """What a frame says; raises Garbled if it is out of turn."""
        if frame.get("id") != ticket.request["id"]:
            raise Garbled(f"an answer to request {frame.get('id')!r} out of turn")
        try:
            self._heed(ticket, worker, frame)
        except (KeyError, TypeError, ValueError) as error:
            raise Garbled(f"a frame that is not as it should be: {error!r}") from None

    def _heed(self, ticket: Ticket, worker: Worker, frame: Frame) -> None:
        now, what = time.monotonic(), frame["say"]
        if what == "begin":
            ticket.step = str(frame["name"]), str(frame["kind"])
            # The worker's clock is ours; it began after the last frame and before now.
            ticket.since = min(max(float(frame["time"]), ticket.since), now)
            worker.since = int(frame["log"])
        elif what == "facts":
            ticket.facts = frame
            if frame["reason"] is None:
                ticket.tactics = [t and str(t) for t in frame["tactics"]]
        elif what == "outcome" and ticket.step and frame["name"] == ticket.step[0]:
            assert ticket.slot is not None
            file, name = worker.files[ticket.slot], ticket.step[0]
            ticket.outcomes[name] = outcome_of(frame["outcome"], file)
            ticket.inputs[name] = dict(frame["inputs"])
            ticket.settled.add(name)
            worker.called.add(_call(ticket))
            ticket.step, ticket.since = None, now
        elif what == "end":
            ticket.answer = frame.get("answer")
            if "error" in frame:
                kind, text = frame["error"]
                ticket.error = str(kind), str(text)
            self._finish(ticket)
            if frame["retire"]:
                self._replace()
        else:
            raise Garbled(f"a frame out of turn: {what!r}")

    def _finish(self, ticket: Ticket) -> None:
        self.queue.popleft()
        ticket.done = True
        if self.worker is not None and ticket.slot is not None:
            self.worker.free.append(ticket.slot)
        if ticket.request["do"] == "case" and not ticket.read:
            self.kept.append(ticket)
        if self.queue and self.worker is not None:
            self._fill(self.worker)
            self.queue[0].since = time.monotonic()

    def _bury(self, status: str, sentence: str) -> None:
        """The worker is no more, or is to be no more: who is to blame, and go on."""
        ticket, worker = self.queue[0], self.worker
        assert worker is not None
        outcome = Outcome(status, log=autopsy(worker.end(), sentence))
        self.worker = None
        if ticket.step is None and ticket.lost < _LOST:
            ticket.lost += 1
        elif ticket.step is None or ticket.step[1] != "call":
            ticket.failure = outcome
            self._finish(ticket)
        else:
            name = ticket.step[0]
            ticket.outcomes[name] = outcome
            ticket.settled.add(name)
            names = [str(index) for index in range(len(ticket.tactics or ()))]
            if name in names and not ticket.settled.issuperset(names):
                # The other tactics have not had their turn.
                ticket.request["done"] = [int(name) for name in ticket.settled]
            else:
                self._finish(ticket)
        self.tainted = ""

    def forget(self, ticket: Ticket) -> None:
        """The ticket has been read."""
        ticket.read = True
        if ticket in self.kept:
            self.kept.remove(ticket)

    def _replace(self) -> None:
        """Another worker, for what is asked from now on and not yet answered."""
        if self.worker is not None:
            self.worker.end()
        self.worker, self.tainted = None, ""

    def close(self) -> None:
        """Give the worker up."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def _call(ticket: Ticket) -> tuple[str, ...]:
    return ticket.target, ticket.op, ticket.step[0] if ticket.step else ""
