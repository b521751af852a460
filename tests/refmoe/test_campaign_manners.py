"""Campaigns start fast, share nothing with ports, and say what cannot be done."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis.database import ExampleDatabase, InMemoryExampleDatabase

from refmoe.campaign import corpus, ledger, plan, state
from refmoe.campaign.archs import scouted
from refmoe.campaign.database import Section, check
from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.state import Ended, Stream, path_of, read
from refmoe.campaign.stream import Job, run
from refmoe.cli.hosting import Hosting
from refmoe.gallery.plain import Plain
from refmoe.loading import port_of
from refmoe.worker.runner import InProcess
from tests.refmoe.streams import checked_of

ROOT = Path(__file__).resolve().parents[2]
PLACE = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
PORT = """
import os, pathlib, time
from refmoe.gallery.plain import Plain

device = "cpu"
_places = [f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")]
_links = [os.readlink(name) for name in _places if os.path.exists(name)]
pathlib.Path("links.txt").write_text("\\n".join(_links))

def permute(ids, layer):
    time.sleep(0.3)
    return Plain().permute(ids, layer)
"""
THREAD = """
import threading, time
from refmoe.gallery.plain import Plain

device, permute = "cpu", Plain().permute
threading.Thread(target=time.sleep, args=(900,)).start()
"""
FORKS = """
import fcntl, operator, os, signal, sys, threading
from pathlib import Path
from refmoe.campaign.archs import Scouted, scouted
from refmoe.campaign.plan import Limits, Plan
from refmoe.campaign.processes import context, elsewhere
from refmoe.campaign.state import path_of, read
from refmoe.campaign.stream import Job, work
from refmoe.cli.hosting import Hosting
from refmoe.parse import parse
from refmoe.verify import Verifier
from refmoe.worker.nursery import Forked, untouched

def told(what, *arguments):
    try:
        return elsewhere(what, *arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

assert untouched()
assert told("adding", operator.add, 1, 2) == 3
assert told("reading", int, "x").startswith("ValueError: invalid literal")
assert told("dividing", operator.truediv, 1, 0) == (
    "ImportError: dividing: ZeroDivisionError: division by zero")
assert told("leaving", os._exit, 7) == (
    "ImportError: leaving ended its process with status 7")

thread = Hosting(True), ["my_thread"], [], []
assert elsewhere("importing", scouted, *thread) == Scouted()
plan = Plan(("my_thread",), ("permute",), workers=1)
job = Job(plan, 0, Path.cwd(), Hosting(True), Limits(2))
stream = context().Process(target=work, args=(job, bool))
stream.start()
stream.join(120)
assert stream.exitcode == 0 and len(read(path_of(Path.cwd(), 0))) == 2

secret = open("secret.txt", "w")
fcntl.flock(secret, fcntl.LOCK_EX)
with Hosting().opened() as (runner, load):
    first = runner.host.process
    assert isinstance(first, Forked)
    port, = load(["my_port"])
    case = parse("permute T=3 E=4 k=2 regime=randn seed=0")
    assert Verifier(runner=runner).check(port, case).kind == "BIT_EQUAL"
    assert "secret" not in Path("links.txt").read_text()
    secret.close()
    again = open("secret.txt", "w")
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(60) == -signal.SIGKILL
    # The worker goes with it, at its next case or the one after.
    kinds = [Verifier(runner=runner).check(port, case).kind for _ in range(3)]
    assert kinds[-1] == "BIT_EQUAL"
    assert not isinstance(runner.host.process, Forked)
end = threading.Event()
threading.Thread(target=end.wait).start()
assert not untouched() and context().get_start_method() == "forkserver"
end.set()
"""


def test_forks_keep_nothing_of_the_command_and_are_made_of_an_idle_one(
    tmp_path: Path,
) -> None:
    """Catches a lock or a socket of the judge in a port's hands, a fork of threads.

    Nor do they wait for threads that a port leaves.
    """
    (tmp_path / "my_port.py").write_text(PORT)
    (tmp_path / "my_thread.py").write_text(THREAD)
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, cwd=tmp_path, env=PLACE, capture_output=True)
    assert not done.returncode, done.stderr.decode()


def test_campaign_has_its_state_alone_and_tells_its_speed(tmp_path: Path) -> None:
    """Catches two commands on one state, of which one waits and says nothing."""
    (tmp_path / "my_port.py").write_text(PORT)
    command = [
        sys.executable, "-m", "refmoe", "fuzz", "my_port", "--state", "state",
        "--quiet", "-n", "1", "--cases", "100000",
    ]  # fmt: skip
    first = subprocess.Popen(
        command, cwd=tmp_path, env=PLACE, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    path = path_of(tmp_path / "state", 0)
    while not path.exists() or path.read_bytes().count(b"\n") < 2:
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.run(
        command, cwd=tmp_path, env=PLACE, text=True, capture_output=True
    )
    assert second.returncode == 2
    assert f"worked on by process {first.pid}; wait for its end" in second.stderr
    first.send_signal(signal.SIGINT)
    told, asides = first.communicate()
    count = len(checked_of(read(path)))
    assert first.returncode == 130
    assert "stopping after the present cases" in asides
    assert f"{count} cases, 0 of the corpus" in told
    assert told.splitlines()[-1].startswith(f"interrupted: {count} cases in ")
    assert told.endswith("/s\n")


def test_op_that_no_port_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a campaign that draws nothing, and ends as if all had been done."""
    port = port_of({"permute": Plain().permute}, "mine")
    monkeypatch.setattr("refmoe.cli.hosting.load", lambda name: port)
    with pytest.raises(ValueError, match="--op route: no port has it; there is perm"):
        scouted(Hosting(True), ["mine"], ["permute", "route"], [])


def test_state_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ValueError, match=r"kept in /proc/no.*or name another --state"):
        plan.claim(Path("/proc/no"), Plan(("mine",)))


def test_state_keeps_no_part_of_a_line_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches half a line that the next one is written behind."""
    write = os.write
    with Stream(path_of(tmp_path, 0)) as stream:
        stream.append(Ended(0))
        monkeypatch.setattr(os, "write", lambda f, text: write(f, text[:5]))
        with pytest.raises(OSError, match="No space left on device"):
            stream.append(Ended(1))
        monkeypatch.undo()
        stream.append(Ended(2))
    assert read(path_of(tmp_path, 0)) == [Ended(0), Ended(2)]


def test_campaign_ends_where_a_case_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an error that hypothesis takes for a flaky case: batches go on unseen."""
    append = Stream.append
    written: list[state.Line] = []

    def full(stream: Stream, line: state.Line) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(line)
        append(stream, line)

    monkeypatch.setattr(Stream, "append", full)
    job = Job(Plan(("plain",), ("permute",)), 0, tmp_path, Hosting(True), Limits(50))
    with pytest.raises(OSError, match="No space left"):
        run(job, [port_of(Plain(), "plain")], InProcess(), lambda: False)
    assert read(path_of(tmp_path, 0)) == written


def test_state_with_a_foreign_line_says_where(tmp_path: Path) -> None:
    path_of(tmp_path, 0).write_bytes(b'{"line":"ended","batch":0}\ngarbage\n')
    with pytest.raises(ValueError, match=r"stream-0000.jsonl, byte 27: .*cut the file"):
        read(path_of(tmp_path, 0))


@pytest.mark.parametrize(
    "text, words",
    [
        (b"[[finding", "no valid TOML"),
        (b"\xff\xfe", "no valid TOML"),
        (
            b'[[finding]]\nport="a"\nop="b"\nstage="c"\ncause="d"\nkind=3',
            "finding 1: kind=3 is unfit; give a text",
        ),
    ],
)
def test_ledger_that_is_malformed_is_named(
    tmp_path: Path, text: bytes, words: str
) -> None:
    (tmp_path / "mine.toml").write_bytes(text)
    with pytest.raises(ValueError, match=f"mine.toml: {words}"):
        ledger.read(tmp_path / "mine.toml")


def test_corpus_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine\.txt is no text in UTF-8"):
        corpus.read(tmp_path)


class Gone(ExampleDatabase):
    """A server that went away."""

    asked = 0

    def fetch(self, key: bytes) -> Iterable[bytes]:
        self.asked += 1
        raise ConnectionError("gone")

    save = delete = fetch  # type: ignore[assignment]


def test_campaign_goes_on_without_a_database_that_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = Gone()
    section = Section(whole, b"route")
    assert section.fetch(b"key") == []
    section.save(b"key", b"value")
    assert whole.asked == 1
    assert capsys.readouterr().err == "refmoe: the database does not answer: gone\n"
    section = Section(InMemoryExampleDatabase(), b"route")
    section.save(b"key", b"value")
    assert section.fetch(b"key") == [b"value"]


def test_database_that_nobody_can_write_is_named(tmp_path: Path) -> None:
    check(str(tmp_path / "made"))
    assert (tmp_path / "made").is_dir()
    with pytest.raises(ValueError, match="--database /proc/no: no folder that can be"):
        check("/proc/no")
    pytest.importorskip("redis")
    with pytest.raises(ValueError, match="no Redis server answers there"):
        check(f"unix://{tmp_path}/no.sock")
