"""Campaigns survive kill -9, share examples, replay their corpus, compare ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refmoe.campaign import batch
from refmoe.campaign.batch import UNBUILT, checked
from refmoe.campaign.closeness import Heard
from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.state import CORPUS, Checked, Found, Line, path_of, read
from refmoe.campaign.stream import Job, run
from refmoe.campaign.totals import Totals
from refmoe.case import Case
from refmoe.cli.hosting import Hosting
from refmoe.gallery import entries
from refmoe.gallery.plain import Plain
from refmoe.loading import load, port_of
from refmoe.port import Port
from refmoe.protocol import OPS
from refmoe.record import Record
from refmoe.verify import Verifier
from refmoe.worker.runner import InProcess

ROOT = Path(__file__).resolve().parents[2]
MISTAKE = "refmoe.gallery.mistakes:no_clamp"
SHOWS = "activate T=2 I=8 E=3 k=1 regime=randn activation.limit=0.5 seed=3"
RIGHT = "activate T=2 I=8 E=3 k=1 regime=randn seed=3"


def lines_of(
    folder: Path, ports: list[Port], cases: int, **given: object
) -> list[Line]:
    """The lines of one stream, drawn in this process."""
    named = {key: given.pop(key) for key in ("corpus", "database") if key in given}
    plan = Plan(tuple(p.name for p in ports), workers=1, elements=1 << 10, **given)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(plan, 0, folder, Hosting(True), Limits(cases), **named)  # type: ignore[arg-type]
    run(job, ports, InProcess(), lambda: False)
    return read(path_of(folder, 0))


def cases_of(lines: list[Line]) -> list[str]:
    return [line.case for line in lines if isinstance(line, Checked)]


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.state import path_of
from refmoe.campaign.stream import Job, run
from refmoe.loading import load
from refmoe.worker.runner import InProcess

torch.set_num_threads(1)
ops = ("activate", "combine")
plan = Plan(("refmoe.gallery.mistakes:no_clamp",), ops, workers=1, elements=1 << 10)
port = load(plan.ports[0])
seed, folders, kills, cases = map(int, sys.argv[2:])
draw = random.Random(seed)

def started(folder):
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if not child:
        job = Job(plan, 0, folder, None, Limits(cases), study=0.0)
        run(job, [port], InProcess(), lambda: False)
        os._exit(0)
    return child

root = Path(sys.argv[1])
os.waitpid(started(root / "unbroken"), 0)
for number in range(folders):
    folder = root / f"killed-{number}"
    for _ in range(kills):
        more = draw.randrange(1, 2 * cases // (2 * kills + 1))
        path = path_of(folder, 0)
        size = lambda: path.read_bytes().count(b"\\n") if path.exists() else 0
        enough, child = size() + more, started(folder)
        while size() < enough:
            time.sleep(0.001)
        # Somewhere in the cases that follow.
        time.sleep(0.03 * draw.random())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.waitpid(started(folder), 0)
"""


@pytest.mark.parametrize(
    "folders, kills, cases",
    [(2, 2, 150), pytest.param(1, 25, 600, marks=pytest.mark.long)],
)
def test_campaign_killed_anywhere_gives_the_totals_of_an_unbroken_one(
    tmp_path: Path, folders: int, kills: int, cases: int
) -> None:
    """Catches a case that is lost, counted twice, or drawn otherwise after a kill."""
    given = map(str, (tmp_path, os.getpid(), folders, kills, cases))
    subprocess.run([sys.executable, "-c", KILLS, *given], cwd=ROOT, check=True)
    whole = read(path_of(tmp_path / "unbroken", 0))
    totals = Totals()
    totals.add(0, whole)
    assert totals.cases == cases
    assert totals.failures
    for number in range(folders):
        lines = read(path_of(tmp_path / f"killed-{number}", 0))
        resumed = Totals()
        resumed.add(0, lines)
        assert resumed == totals, f"killed at points from seed {os.getpid()}"
        assert cases_of(lines) == cases_of(whole)


def fuzz(folder: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "refmoe", "fuzz", MISTAKE, "--op", "activate",
        "--state", str(folder), "--in-process", "--quiet", "--elements", "1024",
        "--study", "5", "-n", "1", *options,
    ]  # fmt: skip


def failures(lines: list[Line]) -> list[str]:
    return [
        line.case
        for line in lines
        if isinstance(line, Checked) and line.results[MISTAKE].kind == "WRONG"
    ]


def waited(folder: Path, count: int) -> None:
    """Until so many cases have failed."""
    while len(failures(read(path_of(folder, 0)))) < count:
        time.sleep(0.01)


def test_campaign_stops_at_a_signal_and_is_resumed_by_the_same_command(
    tmp_path: Path,
) -> None:
    """Ctrl-C leaves a report; kill -9 of the parent leaves no writer behind."""
    command = fuzz(tmp_path, "--cases", "1000000")
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    waited(tmp_path, 1)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate()
    assert process.returncode == 1
    assert f"new: WRONG activate[{MISTAKE}] at intermediate" in told
    assert "the limit is left out (no_clamp)" in (tmp_path / "ledger.toml").read_text()

    before = len(failures(read(path_of(tmp_path, 0))))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    waited(tmp_path, before + 1)
    process.kill()
    process.wait()
    # The orphan gives the lock back, and the rest is drawn: as many as were asked for.
    ledger = tmp_path / "ledger.toml"
    ledger.write_text(ledger.read_text().replace('"new"', '"fixed"'))
    asked = len(cases_of(read(path_of(tmp_path, 0)))) + 50
    done = subprocess.run(
        fuzz(tmp_path, "--cases", str(asked)), cwd=ROOT, capture_output=True, text=True
    )
    lines = read(path_of(tmp_path, 0))
    drawn = [line for line in lines if isinstance(line, Checked) and line.batch >= 0]
    assert len(drawn) == asked
    assert len({(line.batch, line.number) for line in drawn}) == asked
    assert done.returncode == 1
    assert "FIXED, AND BACK: WRONG activate" in done.stdout


def test_campaign_begun_anew_tells_what_is_back(tmp_path: Path) -> None:
    """Catches a ledger that takes a new state's first failure for a counted one."""
    book = str(tmp_path / "ledger.toml")
    command = fuzz(tmp_path / "a", "--cases", "60", "--ledger", book)
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 1
    text = Path(book).read_text()
    Path(book).write_text(text.replace('"new"', '"fixed"'))
    command = fuzz(tmp_path / "b", "--cases", "60", "--ledger", book)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "FIXED, AND BACK: WRONG activate" in done.stdout
    assert done.returncode == 1
    assert [line for line in text.splitlines() if line.startswith("count")] == [
        line for line in Path(book).read_text().splitlines() if line.startswith("count")
    ]


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
    kinds = [line.results["plain"].kind for line in lines if isinstance(line, Checked)]
    assert len(kinds) == 20
    assert {UNBUILT, "BIT_EQUAL"} <= set(kinds)


@pytest.mark.parametrize(
    "options, words",
    [
        ((), "say how much: --cases or --minutes"),
        (("--cases", "1", "--shard", "2/2"), "count from 0, as 0/4 to 3/4"),
        (("--cases", "1", "--shard", "3"), "count from 0, as 0/4 to 3/4"),
        (("--cases", "1", "--op", "permut"), "did you mean 'permute'"),
        (("--cases", "1", "--arch", "hopper"), "is no architecture"),
        (("--cases", "1", "--arch", "sm_999a"), "never ran: nothing here executes"),
    ],
)
def test_fuzz_names_what_cannot_be_done(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    from typer.testing import CliRunner

    from refmoe.cli.app import app
    from refmoe.cli.fuzz import fuzz as command

    if "fuzz" not in [one.name for one in app.registered_commands]:
        app.command("fuzz")(command)
    arguments = ["fuzz", MISTAKE, "--in-process", "--state", str(tmp_path), *options]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code in (2, 3)
    assert words in found.output
