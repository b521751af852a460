"""The project's own campaigns can be run, and its ledger and corpus be read."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from refmoe.campaign import corpus, ledger
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.verify import Verifier
from refmoe.worker.runner import InProcess

FUZZ = Path(__file__).resolve().parents[2] / "fuzz"


def test_corpus_of_the_project_finds_a_held_mistake_at_once() -> None:
    lines = corpus.read(FUZZ / "corpus")
    port, verifier = (
        load("refmoe.gallery.mistakes:no_clamp"),
        Verifier(runner=InProcess()),
    )
    cases = [case for case in map(parse, lines) if case.op in port.ops]
    assert any(verifier.check(port, case).kind.failed for case in cases)


def test_corpus_of_the_project_raises_no_alarm_on_honest_ports() -> None:
    """Catches an alarm that was false once, and is back."""
    known = tomllib.loads((FUZZ / "campaigns.toml").read_text())
    ports = [load(name) for name in known["honest"]["ports"]]
    verifier = Verifier(runner=InProcess())
    for case in map(parse, corpus.read(FUZZ / "corpus")):
        for port in ports:
            if case.op in port.ops:
                record = verifier.settled(verifier.check(port, case))
                assert not record.kind.failed, (port.name, str(case), record.judgement)


def test_ledger_of_the_project_is_sound() -> None:
    entries = ledger.read(FUZZ / "ledger.toml")
    for entry in entries:
        parse(entry.case)
        assert entry.status != "returned", entry


def test_campaigns_of_the_project_name_their_ports() -> None:
    known = tomllib.loads((FUZZ / "campaigns.toml").read_text())
    gallery = [
        port
        for one in known.values()
        for port in one["ports"]
        if port.startswith("refmoe.gallery")
    ]
    assert gallery
    assert all(load(port).ops for port in gallery)


def test_campaign_that_is_unknown_is_refused() -> None:
    command = [sys.executable, "-m", "fuzz", "nothing"]
    found = subprocess.run(command, cwd=FUZZ.parent, capture_output=True, text=True)
    assert found.returncode == 2
    assert "no campaign is called 'nothing'; there are honest" in found.stdout
