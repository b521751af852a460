"""The kill matrix: entries of the gallery against properties, and what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from refmoe.loading import port_of
from refmoe.port import Port
from refmoe.protocol import suggestion
from refmoe.score.properties import PROPERTIES
from refmoe.score.spread import spread
from refmoe.score.trial import Row, tried
from refmoe.worker.isolated import Isolated
from refmoe.worker.runner import InProcess, Runner

if TYPE_CHECKING:
    from refmoe.gallery.entry import Entry

#: Cases of each property, by profile.
PROFILES = {"ci": 4, "deep": 32}
#: Mutants: ports that must be killed.
KINDS = ("mistake", "cheat")
#: Entries that a process is given at a time; neighbours share problems.
_TOGETHER = 6


@dataclass(frozen=True, slots=True)
class Task:
    """Some entries of one kind, the cases of each property, and which properties."""

    kind: str
    names: tuple[str, ...]
    cases: int
    only: tuple[str, ...] = ()


def entries(kind: str) -> dict[str, Entry]:
    """The gallery's entries of one kind."""
    found: dict[str, Entry] = import_module("refmoe.gallery").entries(kind)
    return found


def chosen(names: Sequence[str]) -> dict[str, list[str]]:
    """Mutants by kind: those of these names, or all.

    Raises ValueError for a name that no mistake and no cheat has.
    """
    known = {name: kind for kind in KINDS for name in entries(kind)}
    for name in names:
        if name not in known:
            raise ValueError(
                f"score: no mistake or cheat of the gallery is called {name!r}; "
                f"{suggestion(name, known)}"
            )
    wanted = names or tuple(known)
    return {kind: [name for name in wanted if known[name] == kind] for kind in KINDS}


def matrix(
    names: Sequence[str], cases: int, only: Sequence[str], workers: int
) -> Iterator[list[Row]]:
    """The rows, some at a time."""
    tasks = []
    for kind, own in chosen(names).items():
        ops = [entry.op for entry in entries(kind).values()]
        own.sort(key=lambda name: ops.index(entries(kind)[name].op))
        for first in range(0, len(own), _TOGETHER):
            part = tuple(own[first : first + _TOGETHER])
            tasks.append(Task(kind, part, cases, tuple(only)))
    return spread(rows, tasks, workers)


def rows(task: Task) -> list[Row]:
    """Each entry of a task on trial."""
    found = []
    with _hosted(task.kind) as (runner, load):
        for name in task.names:
            entry = entries(task.kind)[name]
            new = partial(load, entry)
            found.append(tried(task.kind, entry, new, runner, task.cases, task.only))
    return found


@contextmanager
def _hosted(kind: str) -> Iterator[tuple[Runner, Callable[[Entry], Port]]]:
    """Where entries run: cheats, which take over their process, in workers."""
    if kind != "cheat":
        yield InProcess(), lambda entry: port_of(entry.port(), entry.name)
        return
    with Isolated() as isolated:
        yield (
            isolated,
            lambda entry: isolated.load(f"refmoe.gallery.cheats:{entry.name}")[0],
        )


def document(profile: str, rows: Iterable[Row]) -> dict[str, Any]:
    """The part `matrix` of a score."""
    mutants = [_plain(row) for row in rows]
    return {
        "profile": profile, "cases_of_each_property": PROFILES[profile],
        "killed": sum(one["status"] == "killed" for one in mutants),
        "of": len(mutants),
        "coverage": coverage(mutants),
        "properties": by_property(mutants), "mutants": mutants,
    }  # fmt: skip


def _plain(row: Row) -> dict[str, Any]:
    first = min(row.hits.values(), key=lambda hit: hit.after, default=None)
    whole = asdict(row) | {
        "case": first.case if first else "",
        "killed_by": {name: [hit.after, hit.stage] for name, hit in row.hits.items()},
        "asked": dict(row.asked),
    }
    del whole["hits"]
    return whole


def coverage(mutants: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """[killed, all] of the mistakes of each class, op and stage."""
    found: dict[str, dict[str, list[int]]] = {"group": {}, "op": {}, "at": {}}
    for one in mutants:
        for key, table in found.items():
            if one["kind"] == "mistake":
                count = table.setdefault(one[key], [0, 0])
                count[0] += one["status"] == "killed"
                count[1] += 1
    return found


def by_property(mutants: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each property kills, in one case and in all, and what it alone kills.

    `alone_of_kind` counts other properties of its kind only: what a law kills without
    any oracle and no other law does, or one regime of them all.
    """
    kills, first, asked = Counter[str](), Counter[str](), Counter[str]()
    alone: dict[str, list[str]] = {name: [] for name in PROPERTIES}
    of_kind: dict[str, list[str]] = {name: [] for name in PROPERTIES}
    for one in mutants:
        killers = list(one["killed_by"])
        asked.update(one["asked"])
        kills.update(killers)
        first.update(name for name in killers if one["killed_by"][name][0] == 1)
        kinds = Counter(_kind(name) for name in killers)
        for name in killers:
            if len(killers) == 1:
                alone[name].append(one["name"])
            if kinds[_kind(name)] == 1:
                of_kind[name].append(one["name"])
    return [
        {
            "property": name, "cases": asked[name], "kills": kills[name],
            "in_one_case": first[name], "alone": alone[name],
            "alone_of_kind": of_kind[name],
        }
        for name in PROPERTIES
    ]  # fmt: skip


def _kind(name: str) -> str:
    return name.partition(":")[0]
