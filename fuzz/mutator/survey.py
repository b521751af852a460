"""Which kernels each case launches, and how long it takes, as long as all are right."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

from fuzz.mutator.building import Kernel
from fuzz.mutator.cases import Item, Plan, item_of, planned
from fuzz.mutator.processes import Message, Pool, Task, Tell, in_order
from refmoe.guard import launch as guarded
from refmoe.kernels import launch
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.plan import Cell
from refmoe.verify import Verifier

#: Into how many parts each process' share of a survey is cut.
_PARTS = 3
#: Cycles for which a guard holds inputs back: no mutant is on a stream of its own, and
#: processes that share a GPU wait for each other.
_DELAY = 1_000_000


@contextmanager
def recorded() -> Iterator[set[tuple[str, str]]]:
    """Within it the file and expression of every kernel that is launched."""
    seen: set[tuple[str, str]] = set()
    call = launch.Kernel.__call__

    def noted(kernel: launch.Kernel, *arguments: Any, **keywords: Any) -> None:
        seen.add((kernel.file, kernel.expression))
        call(kernel, *arguments, **keywords)

    with patch.object(launch.Kernel, "__call__", noted):
        yield seen


@contextmanager
def brisk() -> Iterator[None]:
    """Within it guards hold inputs back for a shorter time."""
    with patch.object(guarded, "_DELAY", _DELAY):
        yield


def surveyed(items: Sequence[Item], tell: Tell) -> None:
    """Judge the unchanged kernels on some items; each is told as it is done."""
    ports, verifier = {item.port: load(item.port) for item in items}, Verifier()
    for item in items:
        tell({"at": item.case})
        start = time.perf_counter()
        case = parse(item.case, largest=None)
        with recorded() as seen, brisk():
            try:
                record = verifier.check(ports[item.port], case, Cell(*item.cell))
            except ValueError:
                # The case cannot be built: its format takes no NaN, say.
                continue
        done = Item(
            item.port, item.case, item.cell, tuple(sorted(seen)),
            round(time.perf_counter() - start, 4), str(record.kind),
            record.kind.reported,
        )  # fmt: skip
        tell({"item": asdict(done)})


def survey(plan: Plan, pool: Pool) -> list[Item]:
    """The plan's items with what they launch; what never came back is left out."""

    def listing(tell: Tell) -> None:
        for item in planned(plan):
            tell({"item": asdict(item)})

    items = list(_items(pool.run(in_order(iter([("plan", listing)])))))
    # Every process gets of everything: none has all that is slow.
    count = max(1, min(len(items), pool.workers * _PARTS))
    chunks = [items[number::count] for number in range(count)]
    # They begin in different places: what one has compiled the others find.
    for number, chunk in enumerate(chunks):
        start = number * len(chunk) // count
        chunk[:] = chunk[start:] + chunk[:start]

    def task(chunk: Sequence[Item]) -> Task:
        return lambda tell: surveyed(chunk, tell)

    named = [(f"chunk {n}", task(chunk)) for n, chunk in enumerate(chunks)]
    found = {item.key: item for item in _items(pool.run(in_order(iter(named))))}
    return [found[item.key] for item in items if item.key in found]


def _items(messages: Iterable[tuple[str, Message]]) -> Iterator[Item]:
    last: dict[str, str] = {}
    for name, message in messages:
        last[name] = message.get("at", last.get(name, ""))
        if "item" in message:
            yield item_of(message["item"])
        if "error" in message or message.get("ended", 0) != 0:
            print(f"survey: {name}: {message}, at {last[name]}", file=sys.stderr)


def by_kernel(items: Iterable[Item]) -> dict[Kernel, list[Item]]:
    """The items that launch each kernel, all kinds of inputs in turns, cheap first."""
    groups: dict[Kernel, dict[tuple[str, str, str], list[Item]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for item in sorted(items, key=lambda item: item.seconds):
        if not item.reported:
            for kernel in item.launched:
                groups[kernel][item.inputs].append(item)
    return {
        kernel: [
            group[number]
            for number in range(max(map(len, kinds.values())))
            for group in kinds.values()
            if number < len(group)
        ]
        for kernel, kinds in groups.items()
    }
