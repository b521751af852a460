"""The files that a run leaves: certificate, JUnit XML, page."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path

from refmoe.report.certificate import certificate
from refmoe.report.junit import junit
from refmoe.report.page import page
from refmoe.report.run import Run

#: Findings of one op and subject of a port with pictures on the page.
PICTURES = 3


def check_writable(path: Path | None) -> None:
    """Raise ValueError for a path that no file can be written to; None is fine.

    What is there keeps its bytes; what is not there is not there afterwards.
    """
    if path is None or (path.exists() and not (path.is_file() or path.is_dir())):
        # Of a pipe or a device only writing itself tells.
        return
    new = not (path.exists() or path.is_symlink())
    try:
        # Rights do not say it: a superuser has them all, where nothing can be written.
        path.open("ab").close()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written; give a file in a folder ({error.strerror})"
        ) from None
    if new:
        # Another process may look, too.
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Files:
    """Where each report goes; None: it is not wanted."""

    json: Path | None = None
    junit: Path | None = None
    html: Path | None = None

    @property
    def pictures(self) -> int:
        """How many findings of an op and subject get pictures."""
        return 0 if self.html is None else PICTURES

    def check(self) -> None:
        """Raise ValueError for a path that cannot be written, before the run starts."""
        for path in astuple(self):
            check_writable(path)

    def write(self, run: Run) -> None:
        """Write what is wanted."""
        if self.json is not None:
            document = json.dumps(certificate(run), indent=1, allow_nan=False)
            self.json.write_text(document + "\n", encoding="utf-8")
        if self.junit is not None:
            self.junit.write_text(junit(run), encoding="utf-8")
        if self.html is not None:
            self.html.write_text(page(run), encoding="utf-8")
