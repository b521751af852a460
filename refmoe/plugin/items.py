"""The tests that a suite becomes: one for each cell of the report."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from refmoe.case import Case, format_names, model_names, model_of
from refmoe.expected import excuse
from refmoe.laws import LAWS
from refmoe.plan import DEFAULT_FORMATS, DEFAULT_MODELS, Cell, cells
from refmoe.plugin.session import Session
from refmoe.plugin.suite import Suite
from refmoe.port import Port
from refmoe.protocol import OPS, op
from refmoe.regimes import REGIMES, regime
from refmoe.report.text import lines
from refmoe.schedule import heard, schedule
from refmoe.study import studied
from refmoe.verdict import Kind
from refmoe.verify import Record, Verifier
from refmoe.worker.facts import RemotePort
from refmoe.worker.runner import announced

#: Findings of one test that are printed.
_SHOWN = 3


class FindingWarning(UserWarning):
    """A verdict that is worth a look and no failure: SUSPECT, UNDECLARED."""


class Failure(Exception):
    """What a test found, as the text to show."""


class PortItem(pytest.Item):
    """A test of one port whose failure is told in the words of its findings."""

    port: Port
    run: Session
    #: What came of it, for the report.
    records: Sequence[Record] = ()
    missing: str = ""

    @property
    def verifier(self) -> Verifier:
        """Where the port can run: what is an object of this process runs here."""
        return self.run.verifier(isolated=isinstance(self.port, RemotePort))

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Path and name; a suite has no line of its own."""
        return self.path, None, self.name

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """The findings' text; a traceback only where refmoe itself fails."""
        if isinstance(excinfo.value, Failure | FindingWarning):
            return str(excinfo.value)
        excinfo.traceback = excinfo.traceback.cut(path=__file__)
        return super().repr_failure(excinfo, style)

    def judged(self, records: Sequence[Record]) -> None:
        """Settle the records, look behind the first failure of an op, and conclude."""
        records = [self.verifier.settled(record) for record in records]
        failed = [record for record in records if self.fails(record)]
        place = (self.port.name, failed[0].cell.op) if failed else None
        if place is not None and place not in self.run.studied:
            self.run.studied.add(place)
            seconds = self.run.settings.profile.study
            behind = studied(failed, [self.port], self.verifier, seconds=seconds)
            known = {id(a): b for a, b in zip(failed, behind, strict=True)}
            records = [known.get(id(record), record) for record in records]
        self.records = records
        self.conclude(records)

    def fails(self, record: Record) -> bool:
        """Whether the record fails the test."""
        return record.kind.failed and excuse(self.run.expected, record) is None

    def conclude(self, records: Sequence[Record]) -> None:
        """Pass, or raise what pytest takes for failed, skipped or expected to fail."""
        found = [record for record in records if self.fails(record)]
        if found:
            raise Failure("\n".join(_text(found)))
        for record in records:
            if record.kind.reported and not excuse(self.run.expected, record):
                text = "\n".join(lines(record.finding()))
                warnings.warn(FindingWarning(text), stacklevel=2)
        excused = (excuse(self.run.expected, record) for record in records)
        reasons = dict.fromkeys(entry.reason for entry in excused if entry)
        if reasons:
            pytest.xfail("; ".join(reasons))
        if not any(record.kind.decided for record in records):
            reason = next((r.judgement.verdict.detail for r in records), "no case")
            kind = records[0].kind if records else Kind.UNSUPPORTED
            pytest.skip(f"{kind}: {reason.splitlines()[0] if reason else ''}")


class CellItem(PortItem):
    """The cases of one cell, or those of a law on an op."""

    cell: Cell
    cases: Sequence[Case] = ()

    def runtest(self) -> None:
        """Run all of them: the worst is told first, and the report wants every one."""
        verifier = self.verifier
        plan = [(self.port, self.cell, case) for case in self.cases or self._drawn()]
        records = [
            verifier.check(port, case, cell)
            for port, cell, case in announced(plan, verifier.runner)
        ]
        self.judged(records)

    def _drawn(self) -> list[Case]:
        settings = self.run.settings
        count, seed = settings.profile.cases, settings.seed
        drawn = schedule([self.port], [self.cell], count, seed)
        return [case for _, _, case in drawn]


class HuntItem(PortItem):
    """Cases of one op that nobody has listed."""

    op: str
    narrowed: Mapping[str, Sequence[str]]

    def runtest(self) -> None:
        """Search as long as the profile says."""
        from refmoe.plugin.hunt import Hunt

        settings = self.run.settings
        hunt = Hunt(self.verifier, self.port, self.op, self.fails)
        examples, seed = settings.profile.examples, settings.seed
        self.judged(hunt.run(examples, seed, **self.narrowed))


class MissingItem(PortItem):
    """An op that the port does not have: seen, and no green pass."""

    def runtest(self) -> None:
        """Skip."""
        pytest.skip(f"MISSING: {self.port.name} has no {self.missing}")


def collect(
    collector: pytest.Collector, name: str, suite: Suite, run: Session
) -> Iterator[pytest.Item]:
    """The tests of a suite, named after what they judge.

    Raises UsageError for a name that is not known, or a port that cannot be loaded.
    """
    port = run.port(suite.port)

    def item(kind: type[PortItem], words: Sequence[str], **values: Any) -> PortItem:
        shown = "-".join(word for word in words if word != "-")
        made = kind.from_parent(collector, name=f"{name}[{shown}]")
        made.port, made.run = port, run
        for key, value in values.items():
            setattr(made, key, value)
        return made

    try:
        grid, drawn = _grid(suite, run), _narrowed(suite, run)
    except ValueError as error:
        raise pytest.UsageError(f"refmoe: {error}") from None
    alone = len(suite.ops) == 1
    for operation in suite.ops or OPS:
        if operation not in port.ops:
            yield item(MissingItem, [operation], missing=operation)
            continue
        own = [cell for cell in grid if cell.op == operation]
        for cell in own:
            words = [cell.op, cell.subject, cell.inputs]
            yield item(CellItem, words[alone:], cell=cell)
        of_laws: dict[Cell, list[Case]] = {}
        hearings, seed = run.settings.profile.hearings, run.settings.seed
        for _, cell, case in heard([port], own, [*LAWS.values()], hearings, seed):
            of_laws.setdefault(cell, []).append(case)
        for cell, cases in of_laws.items():
            words = [cell.op, cell.subject, cell.inputs]
            yield item(CellItem, words[alone:], cell=cell, cases=tuple(cases))
        yield item(HuntItem, [operation, "hunt"][alone:], op=operation, narrowed=drawn)


def _narrowed(suite: Suite, run: Session) -> dict[str, Sequence[str]]:
    """What suite or options say of models, formats and regimes, and nothing else."""
    named = {
        name: getattr(run.settings, name) or getattr(suite, name)
        for name in ("models", "formats", "regimes")
    }
    every = {"models": model_names(), "formats": format_names()}
    return {
        name: every[name] if "all" in words else words
        for name, words in named.items()
        if words
    }


def _grid(suite: Suite, run: Session) -> list[Cell]:
    """The cells that suite and options ask for; the options narrow the suite."""
    settings = run.settings
    ops = [op(name).name for name in suite.ops or OPS]
    models = settings.models or suite.models or DEFAULT_MODELS
    formats = settings.formats or suite.formats or DEFAULT_FORMATS
    regimes = settings.regimes or suite.regimes
    models = model_names() if "all" in models else models
    formats = format_names() if "all" in formats else formats
    for name in models:
        model_of(name)
    for name in regimes:
        regime(name)
    return cells(ops, models, formats, regimes or tuple(REGIMES), confined=not regimes)


def _text(records: Sequence[Record]) -> Iterator[str]:
    """The findings, the severest first, and how many more there are."""
    order = sorted(records, key=lambda r: (-r.kind.severity, r.study is None))
    for record in order[:_SHOWN]:
        yield from lines(record.finding())
    if len(order) > _SHOWN:
        yield f"... and {len(order) - _SHOWN} more of this cell"
