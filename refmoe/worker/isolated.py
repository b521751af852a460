"""Runs ports in workers: what one does to its process is a finding, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.laws import Held, Law
from refmoe.laws.relation import Launch, drive
from refmoe.port import Port
from refmoe.problem import Problem
from refmoe.verdict import Outcome
from refmoe.worker.channel import Frame, digest
from refmoe.worker.codec import decoded, encoded
from refmoe.worker.facts import RemotePort, Tactic, facts_of
from refmoe.worker.home import Home, Limits
from refmoe.worker.host import Host
from refmoe.worker.parcel import checked, inputs_of
from refmoe.worker.ticket import PortFailed, Ticket

#: Exceptions of a port that cannot be loaded which mean what they mean here.
_USAGE = {"ValueError": ValueError, "TypeError": TypeError, "ImportError": ImportError}
#: Cases that may be announced and not yet read.
_OPEN = 64


@dataclass(slots=True)
class Isolated:
    """A runner, and the link of the ports that it has loaded.

    Ports of one module share a worker, so that importing it once is enough; a port that
    fails leaves its worker to nobody else. Cases that are announced run while the judge
    is busy with others. What a worker sends is checked: ids and order of frames, names,
    shapes and types of results, and that it built the same inputs from the case.
    """

    limits: Limits = field(default_factory=Limits)
    host: Host = field(default_factory=Host)
    homes: dict[str, Home] = field(default_factory=dict)
    tickets: dict[tuple[str, str], Ticket] = field(default_factory=dict)
    #: Answers of ports, which depend on the question alone.
    defined: dict[tuple[str, Layer], tuple[Layer, Numerics]] = field(
        default_factory=dict
    )
    declined: dict[tuple[str, Case], str | None] = field(default_factory=dict)
    numbers: int = 0

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def load(self, *targets: str) -> list[Port]:
        """The ports called "package.module" or "package.module:object", in order.

        Raises ValueError, TypeError or ImportError as `refmoe.loading.load` does, and
        ImportError where a port ends the process that imports it.
        """
        asked = [self._submit(target, {"do": "load"}) for target in targets]
        found: list[Port] = []
        for target, ticket in zip(targets, asked, strict=True):
            self._home(target).until(ticket, lambda ticket: False)
            if ticket.error is not None and ticket.error[0] in _USAGE:
                raise _USAGE[ticket.error[0]](ticket.error[1])
            if ticket.error is not None or ticket.failure is not None:
                last = ticket.without.log.splitlines()[-1]
                raise ImportError(f"port {target!r} cannot be imported: {last}")
            found.append(facts_of(target, ticket.answer, self))
        return found

    def tactics(self, port: RemotePort, case: Case) -> tuple[Any, ...]:
        """See `Port.tactics`; raises PortFailed where there is no answer."""
        ticket = self._said(port, case)
        if ticket.tactics is None:
            return ()
        return tuple(
            None if text is None else Tactic(index, text)
            for index, text in enumerate(ticket.tactics)
        )

    def definition(self, port: RemotePort, layer: Layer) -> tuple[Layer, Numerics]:
        """See `Port.definition`; raises PortFailed where there is no answer."""
        if port.get("declares") is None:
            return layer, port.numerics
        key = (port.name, layer)
        if key not in self.defined:
            answer = self._ask(port, {"do": "definition", "layer": encoded(layer)})
            self.defined[key] = _definition(answer)
        return self.defined[key]

    def unsupported(self, port: RemotePort, case: Case) -> str | None:
        """See `Port.unsupported`; raises PortFailed where there is no answer."""
        key = (port.name, case)
        if (port.name, str(case)) in self.tickets:
            facts = self._said(port, case).facts or {}
            self.declined[key] = facts["reason"]
        elif key not in self.declined and port.get("supports") is None:
            # All that the answer depends on was said when the port was loaded.
            self.declined[key] = Port.unsupported(port, case)
        if key not in self.declined:
            question = {"do": "unsupported", "case": str(case)}
            self.declined[key] = self._ask(port, question)
        return self.declined[key]

    def announce(self, port: Port, case: Case) -> None:
        """Have the case run as soon as its worker is free, if there is room to wait."""
        declined = self.declined.get((port.name, case)) is not None
        if not declined and self._home(port.name).room:
            self._ticket(port, case)

    def run(self, port: Port, problem: Problem, tactic: Any = None) -> Outcome:
        """What the port does with the problem.

        A problem that was announced as a case is built by the worker; the tensors of
        any other are sent.
        """
        home, case = self._home(port.name), problem.case
        name = str(getattr(tactic, "index", 0))
        ticket = self.tickets.get((port.name, str(case)))
        if ticket is None or name in ticket.handed:
            return self._sent(port, problem, tactic)
        home.until(ticket, lambda ticket: name in ticket.outcomes)
        if name not in ticket.outcomes:
            return self._read(port, case, ticket).without
        outcome = ticket.outcomes.pop(name)
        ticket.handed.add(name)
        if len(ticket.handed) == len(ticket.tactics or ()):
            self._read(port, case, ticket)
        if outcome.status == "ran" and not outcome.violations:
            built = ticket.inputs.get(name, {})
            differing = _differing(built, digest(inputs_of(problem)))
            if differing:
                return Outcome("ran", violations=(differing,))
        return checked(outcome, problem)

    def hold(self, law: Law, port: Port, problem: Problem) -> Held:
        """The law's launches on the port, and what must agree among them."""
        assert isinstance(port, RemotePort), f"{port.name} lives in this process"
        case = problem.case.but(law=law.name)
        ticket = self._ticket(port, case)
        self._home(port.name).until(ticket, lambda ticket: False)
        self._read(port, case, ticket)

        def recorded(step: Launch) -> Outcome:
            outcome = ticket.outcomes.get(step.name)
            return checked(outcome or ticket.without, step.problem)

        return Held(*drive(law.steps(problem, port), recorded))

    def distrust(self, port: Port) -> None:
        """The port failed: another port of its module gets a new worker."""
        home = self._home(port.name)
        if home.worker is not None and len(home.targets) > 1:
            if any(call[0] == port.name for call in home.worker.called):
                home.tainted = port.name

    def close(self) -> None:
        """End every worker."""
        for home in self.homes.values():
            home.close()
        self.homes.clear()
        self.tickets.clear()
        self.host.close()

    def _home(self, target: str) -> Home:
        module = target.partition(":")[0]
        if module not in self.homes:
            self.homes[module] = Home(self.host, self.limits)
        self.homes[module].targets.add(target)
        return self.homes[module]

    def _submit(
        self, target: str, request: Frame, op: str = "", problem: Problem | None = None
    ) -> Ticket:
        home = self._home(target)
        home.leave_to(target)
        self.numbers += 1
        request = {"id": self.numbers, "port": target, **request}
        ticket = Ticket(target, request, op, problem)
        home.submit(ticket)
        return ticket

    def _ticket(self, port: Port, case: Case) -> Ticket:
        """The case's request, sent if it was not."""
        key = (port.name, str(case))
        self._home(port.name).leave_to(port.name)
        if key not in self.tickets:
            if len(self.tickets) >= _OPEN:
                # Nobody came for the oldest one.
                target, line = next(iter(self.tickets))
                self._home(target).forget(self.tickets.pop((target, line)))
            request = {"do": "case", "case": str(case), "done": []}
            self.tickets[key] = self._submit(port.name, request, case.op)
        return self.tickets[key]

    def _said(self, port: Port, case: Case) -> Ticket:
        """The case's request once the port has said what it declares.

        Raises PortFailed if it did not.
        """
        ticket = self._ticket(port, case)
        self._home(port.name).until(ticket, lambda ticket: ticket.facts is not None)
        if ticket.facts is None:
            raise PortFailed(self._read(port, case, ticket).without)
        if ticket.facts["reason"] is None:
            key = (port.name, decoded(Layer, ticket.facts["layer"]))
            self.defined[key] = _definition(ticket.facts["definition"])
        else:
            self._read(port, case, ticket)
        return ticket

    def _read(self, port: Port, case: Case, ticket: Ticket) -> Ticket:
        self.tickets.pop((port.name, str(case)), None)
        self._home(port.name).forget(ticket)
        return ticket

    def _ask(self, port: Port, request: Frame) -> Any:
        ticket = self._submit(port.name, request)
        self._home(port.name).until(ticket, lambda ticket: False)
        if ticket.failure is not None or ticket.error is not None:
            raise PortFailed(ticket.without)
        return ticket.answer

    def _sent(self, port: Port, problem: Problem, tactic: Any) -> Outcome:
        """A run on tensors that go along with the request."""
        request = {"do": "problem", "tactic": getattr(tactic, "index", None)}
        ticket = self._submit(port.name, request, problem.case.op, problem)
        self._home(port.name).until(ticket, lambda ticket: False)
        return checked(ticket.outcomes.get("", ticket.without), problem)


def _definition(answer: Any) -> tuple[Layer, Numerics]:
    layer, numerics = answer
    return decoded(Layer, layer), decoded(Numerics, numerics)


def _differing(built: Mapping[str, int], meant: Mapping[str, int]) -> str:
    """The sentence about inputs that the worker built otherwise; empty if none."""
    if built == meant:
        return ""
    names = [name for name in meant if built.get(name) != meant[name]]
    return (
        f"in the port's process the case has another {(names or ['input'])[0]}: the "
        "port changes torch, the suite or the floating-point mode around it"
    )
