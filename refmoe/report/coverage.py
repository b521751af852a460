"""What ran where: op x model x format x arch, with what never ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from oracle.spec import BlockFormat
from refmoe.parse import parse
from refmoe.protocol import OPS
from refmoe.report.run import Run
from refmoe.verdict import Kind
from refmoe.verify import Record

#: GPU architectures that MoE kernels are written for.
ARCHS = (
    "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120",
    "gfx942", "gfx950",
)  # fmt: skip


@dataclass(slots=True)
class Reach:
    """How far one op of one port was run on one model in one format, by arch."""

    port: str
    op: str
    subject: str
    form: str
    kinds: dict[str, Counter[Kind]] = field(default_factory=dict)

    def ran(self, arch: str) -> int:
        """Cases that were executed there."""
        kinds = self.kinds.get(arch, Counter[Kind]())
        return sum(count for kind, count in kinds.items() if kind.executed)

    def failed(self, arch: str) -> int:
        """Cases that failed there."""
        kinds = self.kinds.get(arch, Counter[Kind]())
        return sum(count for kind, count in kinds.items() if kind.failed)


def coverage(run: Run) -> tuple[list[str], list[Reach]]:
    """The archs, those of this run first, and a row for all that was to be run.

    Ops that a port does not have stand there too, without a model.
    """
    where = {port.name: port.arch for port in run.ports}
    found: dict[tuple[str, str, str, str], Reach] = {}
    for record in run.records:
        key = (record.port, record.cell.op, record.cell.subject, form(record))
        reach = found.setdefault(key, Reach(*key))
        kinds = reach.kinds.setdefault(where.get(record.port, "?"), Counter())
        kinds[record.kind] += 1
    for port in run.ports:
        tried = {reach.op for reach in found.values() if reach.port == port.name}
        for op in OPS:
            if op not in tried:
                found[port.name, op, "-", "-"] = Reach(port.name, op, "-", "-")
    archs = list(dict.fromkeys([*where.values(), *ARCHS]))
    order = {op: number for number, op in enumerate(OPS)}
    ports = [port.name for port in run.ports]

    def place(reach: Reach) -> tuple[int, int]:
        known = reach.port in ports
        return ports.index(reach.port) if known else len(ports), order[reach.op]

    return archs, sorted(found.values(), key=place)


def form(record: Record) -> str:
    """The format of a case: the one under test, or of weights and activations."""
    return _form(record.case)


@lru_cache(maxsize=4096)
def _form(line: str) -> str:
    case = parse(line, largest=None)
    if case.format is not None:
        return case.format
    if not OPS[case.op].layered:
        floats = any(field.dtype == "x" for field in OPS[case.op].arguments)
        return case.layer.dtype if floats else "-"
    return "/".join(_names((case.layer.weights, case.layer.activations)))


def _names(forms: Sequence[str | BlockFormat]) -> list[str]:
    return [form if isinstance(form, str) else form.name for form in forms]
