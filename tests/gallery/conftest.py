"""Problems are built once for all ports; ports are checked until the first finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain

import pytest

from refmoe import verify
from refmoe.gallery.entry import Entry
from refmoe.laws import LAWS
from refmoe.loading import port_of
from refmoe.plan import DEFAULT_FORMATS, Cell, cells
from refmoe.regimes import REGIMES
from refmoe.schedule import heard, schedule
from refmoe.verdict import Kind
from refmoe.verify import Record, Verifier

#: Models whose layers show what needs no model of its own.
MODELS = ("mixtral-8x7b", "qwen3-30b-a3b")


@pytest.fixture(scope="session", autouse=True)
def _problems_are_kept() -> Iterator[None]:
    """Building a problem costs more than judging it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(verify, "build", lru_cache(maxsize=1024)(verify.build))
    yield
    patch.undo()


def cells_of(entry: Entry) -> list[Cell]:
    """The cells of a run by itself that show an entry, if any does."""
    return cells(
        (entry.op,),
        entry.models or MODELS,
        entry.formats or DEFAULT_FORMATS,
        tuple(REGIMES),
        confined=True,
    )


def first_finding(entry: Entry, count: int) -> Record | None:
    """The first record that catches the entry, in the order of a verification.

    UNDECLARED counts where the entry deserves that; else only once no arithmetic is
    left that explains all of them.
    """
    verifier, open_ = Verifier(), []
    port = port_of(entry.port(), entry.name)
    found = cells_of(entry)
    laws = heard([port], found, tuple(LAWS.values()))
    for _, cell, case in chain(schedule([port], found, count), laws):
        record = verifier.check(port, case, cell)
        if record.kind.failed or record.kind == entry.verdict:
            return record
        if record.kind is Kind.UNDECLARED:
            open_.append(record)
    settled = (verifier.settled(record) for record in open_)
    return next((record for record in settled if record.kind.failed), None)


@pytest.fixture
def hunt() -> Callable[[Entry, int], Record | None]:
    """`first_finding`, for tests."""
    return first_finding
