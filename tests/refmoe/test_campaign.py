"""Campaigns share examples, replay their corpus, compare ports, starve nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from refmoe.campaign import batch
from refmoe.campaign.batch import UNBUILT, checked
from refmoe.campaign.closeness import Heard
from refmoe.campaign.state import CORPUS, Found, path_of
from refmoe.campaign.totals import Totals
from refmoe.case import Case
from refmoe.gallery import entries
from refmoe.gallery.plain import Plain
from refmoe.loading import load, port_of
from refmoe.port import Port
from refmoe.protocol import OPS
from refmoe.record import Record
from refmoe.verify import Verifier
from refmoe.worker.runner import InProcess
from tests.refmoe.streams import MISTAKE, cases_of, checked_of, failures, lines_of

SHOWS = "activate T=2 I=8 E=3 k=1 regime=randn activation.limit=0.5 seed=3"
RIGHT = "activate T=2 I=8 E=3 k=1 regime=randn seed=3"


def test_campaign_shares_examples_between_streams(tmp_path: Path) -> None:
    """Another process, with another seed, begins with what the first one found.

    Among it are cases near the bound that did not fail.
    """
    port, database = load(MISTAKE), str(tmp_path / "examples")
    common = {"ops": ("activate",), "database": database}
    first = lines_of(tmp_path / "a", [port], 120, **common)
    second = lines_of(tmp_path / "b", [port], 4, seed=7, **common)
    assert set(cases_of(second)) & set(failures(first))
    assert cases_of(second)[0] in cases_of(first)
    alone = lines_of(tmp_path / "c", [port], 4, seed=7, ops=("activate",))
    assert not set(cases_of(alone)) & set(failures(first))


def test_campaign_replays_its_corpus_first_and_once(tmp_path: Path) -> None:
    given = {"corpus": (RIGHT, SHOWS), "ops": ("permute",)}
    port = load(MISTAKE)
    lines = lines_of(tmp_path, [port], 5, **given)
    assert cases_of(lines)[:2] == [RIGHT, SHOWS]
    found = next(line for line in lines if isinstance(line, Found))
    assert (found.batch, found.first_seen) == (CORPUS, SHOWS)
    assert "no_clamp" in found.cause
    more = cases_of(lines_of(tmp_path, [port], 10, **given))
    assert more[: len(cases_of(lines))] == cases_of(lines)
    assert (more.count(SHOWS), len(more)) == (1, 12)


@pytest.mark.parametrize("corpus", [(), (RIGHT, SHOWS)])
def test_campaign_studies_what_a_kill_left_unstudied(
    tmp_path: Path, corpus: tuple[str, ...]
) -> None:
    """Catches a failure that counts, with its share drawn, and is never told."""
    port, path = load(MISTAKE), path_of(tmp_path, 0)
    given = {"corpus": corpus, "ops": ("activate",)}
    lines_of(tmp_path, [port], 120, **given)
    whole = path.read_bytes()
    checks = [text for text in whole.splitlines(True) if b'"checked"' in text]
    assert len(checks) < whole.count(b"\n")
    last = next(n for n, text in enumerate(checks) if b"WRONG" in text)
    path.write_bytes(b"".join(checks[: last + 1]))
    cases = max(1, last + 1 - len(corpus))
    lines = lines_of(tmp_path, [port], cases, **given)
    assert any(isinstance(line, Found) for line in lines)
    assert len(cases_of(lines)) == cases + len(corpus)


def test_campaign_tells_which_of_two_ports_is_closer(tmp_path: Path) -> None:
    ports = [
        port_of(entries(kind)[name].port(), name)
        for kind, name in (("honest", "sequential"), ("mistake", "no_clamp"))
    ]
    lines = lines_of(tmp_path, ports, 1, corpus=(SHOWS,), ops=("permute",))
    totals = Totals()
    totals.add(0, lines)
    assert totals.closest["sequential"] == 1
    assert totals.closest["no_clamp"] == 0
    assert {port: sum(kinds.values()) for port, kinds in totals.kinds.items()} == {
        "sequential": 2, "no_clamp": 2,
    }  # fmt: skip


def test_campaign_starves_no_op(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "CASES", 2)
    lines = lines_of(tmp_path, [port_of(Plain(), "plain")], 2 * len(OPS))
    assert {case.split()[0] for case in cases_of(lines)} == set(OPS)


def test_campaign_goes_on_after_a_case_that_cannot_be_built() -> None:
    port = port_of(Plain(), "plain")
    bad = Case("route", T=3, H=8, I=8, E=2, k=4)
    records, results = checked([port], bad, Verifier(runner=Heard(InProcess())))
    assert records == []
    assert results["plain"].kind == UNBUILT
    assert "top_k=4" in results["plain"].stage


def test_campaign_goes_on_after_a_case_that_the_oracle_turns_down_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a stream that ends there, and again whenever it is resumed."""
    own = Verifier.check

    def check(self: Verifier, port: Port, case: Case, *more: object) -> Record:
        if case.seed % 2:
            raise ValueError("x has a NaN")
        return own(self, port, case, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Verifier, "check", check)
    lines = lines_of(tmp_path, [port_of(Plain(), "plain")], 20, ops=("route",))
    kinds = [line.results["plain"].kind for line in checked_of(lines)]
    assert len(kinds) == 20
    assert {UNBUILT, "BIT_EQUAL"} <= set(kinds)
