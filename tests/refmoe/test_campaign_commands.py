"""Campaigns that are killed, stopped, resumed and begun anew, as commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refmoe.campaign.state import path_of, read
from refmoe.campaign.totals import Totals
from tests.refmoe.streams import MISTAKE, ROOT, cases_of, checked_of, failures

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
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, text=True)
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
    drawn = [line for line in checked_of(lines) if line.batch >= 0]
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
