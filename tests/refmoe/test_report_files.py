"""Where reports go: what cannot be written is told before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from refmoe.cli.app import app
from refmoe.cli.fuzz import fuzz
from refmoe.cli.score import score
from refmoe.report.files import Files, check_writable


def test_files_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written; give a file in a folder"):
        Files(html=tmp_path / "absent" / "page.html").check()


def test_paths_are_tried_and_left_as_they_were(tmp_path: Path) -> None:
    """Catches rights that a superuser has and nothing can be written by: /proc."""
    kept, new = tmp_path / "kept.json", tmp_path / "new.json"
    kept.write_text("before")
    for path in (kept, new, Path("/dev/null"), None):
        check_writable(path)
    assert kept.read_text() == "before"
    assert not new.exists()
    for path in (tmp_path, kept / "under.json", Path("/proc/refmoe.json")):
        with pytest.raises(ValueError, match=f"{path} cannot be written"):
            check_writable(path)


@pytest.mark.parametrize(
    "command",
    [
        "verify refmoe.gallery.honest:sequential", "score", "bench --kernels",
        "identify refmoe.gallery.honest:sequential", "fuzz no_such_port --minutes 1",
    ],
)  # fmt: skip
def test_commands_refuse_a_file_before_they_run(command: str, tmp_path: Path) -> None:
    """Catches minutes of work whose result has no place to go."""
    path = str(tmp_path / "absent" / "found.json")
    option = "--ledger" if command.startswith("fuzz") else "--json"
    program = typer.Typer()
    program.registered_commands += app.registered_commands
    for other in (fuzz, score):
        program.command()(other)
    done = CliRunner().invoke(program, [*command.split(), option, path])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert path in done.stderr
