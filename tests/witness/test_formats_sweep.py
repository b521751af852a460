"""The sweep over fp32 patterns, in part always and in full when asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sweep_fp32.py")


def _run(*arguments):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_sweep_strided():
    found = _run("--processes", "1", "--stride", "16381")
    assert found["slices"] == 256
    assert len(found["checks"]) == 14
    assert all(row["compared"] > 260_000 for row in found["checks"].values())


@pytest.mark.long
def test_sweep_every_pattern():
    found = _run()
    for row in found["checks"].values():
        assert row["compared"] == 2**32 - 2 * (2**23 - 1)
        assert row["differing"] == 0
