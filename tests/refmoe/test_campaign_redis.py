"""Two shards of a campaign share what they find through a Redis server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from refmoe.campaign.database import opened
from refmoe.campaign.run import totals
from refmoe.campaign.state import Checked, path_of, read
from tests.refmoe.streams import MISTAKE, ROOT, checked_of, failures


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a Redis server of our own, on a socket and without a disk."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server on PATH")
    redis = pytest.importorskip("redis")
    place = tmp_path / "redis.sock"
    process = subprocess.Popen(
        [
            program, "--port", "0", "--unixsocket", str(place), "--save", "",
            "--dir", str(tmp_path),
        ],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not place.exists():
        assert process.poll() is None, "redis-server did not start"
        time.sleep(0.01)
    yield f"unix://{place}"
    redis.Redis.from_url(f"unix://{place}").shutdown(nosave=True)
    process.wait()


def fuzz(folder: Path, database: str, shard: int, cases: int) -> list[Checked]:
    """What one shard checked; both together draw `cases`."""
    command = [
        sys.executable, "-m", "refmoe", "fuzz", MISTAKE, "--op", "activate", "-n", "1",
        "--state", str(folder), "--in-process", "--quiet", "--elements", "1024",
        "--study", "2", "--cases", str(cases), "--shard", f"{shard}/2",
        "--database", database,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return checked_of(read(path_of(folder, shard)))


def test_campaign_shares_examples_through_a_redis_server(
    server: str, tmp_path: Path
) -> None:
    """Catches a database that is opened, and never written or read."""
    states = [tmp_path / name for name in ("a", "b")]
    first = fuzz(states[0], server, 0, 80)
    second = fuzz(states[1], server, 1, 80)
    assert failures(first)
    assert second[0].case in failures(first)
    command = [sys.executable, "-m", "refmoe", "fuzz-merge", str(tmp_path / "all")]
    done = subprocess.run([*command, *map(str, states)], cwd=ROOT, check=False)
    assert done.returncode == 1
    assert totals(tmp_path / "all").cases == len(first) + len(second) == 80


def test_campaign_without_the_package_redis_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"needs the package redis: pip install 'ref"):
        opened("redis://localhost:6379/0")
