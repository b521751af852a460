"""Cheats are caught, each in a worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import chain

import pytest

from refmoe.gallery import entries
from refmoe.gallery.cheats.tampering import CONTAMINATING
from refmoe.laws import LAWS
from refmoe.loading import port_of
from refmoe.plan import cells
from refmoe.schedule import heard, schedule
from refmoe.verify import Verifier, status, verify
from refmoe.worker.isolated import Isolated

CHEATS = entries("cheat")
MODELS = ("mixtral-8x7b",)


@pytest.fixture(scope="module")
def workers() -> Iterator[Isolated]:
    with Isolated() as isolated:
        yield isolated


@pytest.mark.parametrize("name", sorted(CHEATS))
def test_gallery_cheat_is_caught(workers: Isolated, name: str) -> None:
    """A verification fails, shows a deviation, or has decided nothing."""
    (port,) = workers.load(f"refmoe.gallery.cheats:{name}")
    verifier, found = (
        Verifier(runner=workers),
        cells(("moe",), MODELS, (), ("randn", "exact")),
    )
    laws = heard([port], found, tuple(LAWS.values()))
    records = []
    for _, cell, case in chain(schedule([port], found, 5), laws):
        records.append(verifier.check(port, case, cell))
        if records[-1].kind.failed or records[-1].deviating():
            return
    assert status(records) == 3, f"{name} passes: {CHEATS[name].about}"


@pytest.mark.long
@pytest.mark.parametrize("name", CONTAMINATING)
def test_gallery_cheat_in_one_process_is_not_caught(name: str) -> None:
    """Run in a process of its own, which it takes over: why ports are isolated."""
    script = (
        "import sys; sys.path.insert(0, 'tests/gallery');"
        "from refmoe.loading import load; from refmoe.plan import cells;"
        "from refmoe.verify import status, verify;"
        f"port = load('refmoe.gallery.cheats:{name}');"
        "found = cells(('moe',), ('mixtral-8x7b',), (), ('randn',));"
        "sys.exit(status(verify([port], found, 2)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_gallery_cheats_are_many_and_described() -> None:
    assert len(CHEATS) >= 10
    assert set(CONTAMINATING) <= set(CHEATS)
    assert all(entry.about.endswith(".") for entry in CHEATS.values())


def test_gallery_subclass_of_tensor_is_named() -> None:
    """Catches a result that answers the judge's own comparisons."""
    port = port_of(CHEATS["agreeable_tensor"].port())
    records = verify([port], cells(("moe",), MODELS[:1], (), ("randn",)), 1)
    detail = records[0].judgement.verdict.detail
    assert detail == "out is a Agreeable; return a plain torch.Tensor"


def test_gallery_empty_out_buffer_is_no_crash() -> None:
    """Catches a guard that fails on a batch without tokens."""
    port = port_of(entries("mistake")["last_row_unwritten"].port())
    records = verify([port], cells(("moe",), MODELS[:1], (), ("randn",)), 5)
    ran = [record for record in records if record.kind.executed]
    empty = [" T=0 " in record.case for record in ran]
    assert any(empty)
    assert [record.kind.failed for record in ran] == [not none for none in empty]
