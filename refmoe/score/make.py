"""The parts of a score, made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from refmoe.score import cuda, honest, power
from refmoe.score.matrix import PROFILES, document, entries, matrix
from refmoe.score.spread import spread
from refmoe.score.trial import Row

#: Numbers of cases that power is told for; ops that it is told of.
_COUNTS = (1, 4, 16)
_OPS = ("grouped_gemm", "experts")
#: Mistakes of these ops are not in a layer's output, which is all that rules see.
_NOT_IN_A_LAYER = "omni_"
Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a score is asked for."""

    profile: str = "ci"
    names: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    honest: int = 1000
    cuda: Path | None = None
    workers: int = 1


def make(
    part: str, wanted: Wanted, before: Part | None, seen: Callable[[str], None]
) -> Iterator[Part]:
    """A part, or what there is of it so far; the last one is whole.

    Honest cases go on where the part `before` ended. `seen` is told how far it is.
    """
    if part == "kills":
        yield _kills(wanted, seen)
    elif part == "matrix":
        yield _matrix(wanted, seen)
    elif part == "power":
        yield _power(wanted, seen)
    elif part == "rules":
        yield _rules(wanted, seen)
    elif part == "cuda" and wanted.cuda is not None:
        yield cuda.joined(wanted.cuda)
    elif part == "honest":
        known = honest.tally_of(before) if before else honest.Tally()
        for tally in honest.extended(known, wanted.honest, wanted.workers):
            seen(f"{tally.decided} honest cases, {len(tally.alarms)} alarms")
            yield tally.document()


def _kills(wanted: Wanted, seen: Callable[[str], None]) -> Part:
    rows = _tried(wanted, 0, seen)
    status = Counter(row.status for row in rows)
    left = [row.name for row in rows if row.status == "survived"]
    return {
        "killed": status["killed"], "of": len(rows), "survivors": sorted(left),
        "never ran": status["never ran"], "processes": wanted.workers,
    }  # fmt: skip


def _matrix(wanted: Wanted, seen: Callable[[str], None]) -> Part:
    rows = _tried(wanted, PROFILES[wanted.profile], seen)
    return document(wanted.profile, rows)


def _tried(wanted: Wanted, cases: int, seen: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    for more in matrix(wanted.names, cases, wanted.properties, wanted.workers):
        rows += more
        killed = sum(row.status == "killed" for row in rows)
        seen(f"{killed} of {len(rows)} mutants killed")
    return rows


def _power(wanted: Wanted, seen: Callable[[str], None]) -> Part:
    tasks = [
        (name, op, extent)
        for op in _OPS for name in power.formats(op) for extent in power.EXTENTS
    ]  # fmt: skip
    scales = []
    for one in spread(_scale, tasks, wanted.workers):
        scales.append(one.document())
        seen(f"scale errors in {len(scales)} of {len(tasks)} cells")
    return {
        "scales": scales, "elements": power.single_elements(),
        "rejected": power.smallest_rejected(),
    }  # fmt: skip


def _scale(task: tuple[str, str, str]) -> power.Caught:
    return power.scale_power(*task, _COUNTS)


def _rules(wanted: Wanted, seen: Callable[[str], None]) -> Part:
    """Other suites' rules and our bounds on the same outputs of whole layers."""
    cases = max(1, PROFILES[wanted.profile] // 4)
    kinds = {
        kind: [
            n for n, e in entries(kind).items() if not e.op.startswith(_NOT_IN_A_LAYER)
        ]
        for kind in ("mistake", "honest")
    }
    tasks = [(kind, name, cases) for kind, names in kinds.items() for name in names]
    rejecting: dict[str, list[set[str]]] = {kind: [] for kind in kinds}
    for number, (kind, names) in enumerate(
        spread(_rejecting, tasks, wanted.workers), 1
    ):
        rejecting[kind].append(names)
        seen(f"rules on {number} of {len(tasks)} ports")
    table = import_module("refmoe.gallery.table")
    rows = table.rows(rejecting["mistake"], rejecting["honest"])
    return {"cases_of_each_model": cases, "rules": [asdict(row) for row in rows]}


def _rejecting(task: tuple[str, str, int]) -> tuple[str, set[str]]:
    kind, name, cases = task
    table = import_module("refmoe.gallery.table")
    return kind, table.rejecting(entries(kind)[name], ("randn",), cases)
