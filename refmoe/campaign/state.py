"""What a stream has done: a file that only grows, and counts line by line."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refmoe.verdict import Kind

#: Number of the batch that replays the corpus.
CORPUS = -1


@dataclass(frozen=True, slots=True)
class Result:
    """One port's verdict on a case; `off` is its distance from the oracle's values."""

    kind: str
    stage: str = ""
    ratio: float | None = None
    off: float | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """One case of a batch, with the results of the ports that have its op."""

    batch: int
    number: int
    case: str
    results: dict[str, Result]


@dataclass(frozen=True, slots=True)
class Found:
    """What lies behind the failures of one port at one stage of one op."""

    batch: int
    port: str
    op: str
    stage: str
    kind: str
    cause: str
    case: str
    first_seen: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Where it is."""
        return self.port, self.op, self.stage


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch that was drawn to its end."""

    batch: int


Line = Checked | Found | Ended
_KINDS: dict[str, type[Checked] | type[Found] | type[Ended]] = {
    "checked": Checked, "found": Found, "ended": Ended,
}  # fmt: skip


def path_of(folder: Path, stream: int) -> Path:
    """The file of a stream."""
    return folder / f"stream-{stream:04}.jsonl"


def spelt(line: Line) -> bytes:
    """The line as it is written."""
    return json.dumps(_fields(line), separators=(",", ":")).encode() + b"\n"


def _fields(line: Line) -> dict[str, Any]:
    word = next(word for word, kind in _KINDS.items() if isinstance(line, kind))
    fields: dict[str, Any] = {"line": word}
    fields |= {name: getattr(line, name) for name in line.__slots__}
    if isinstance(line, Checked):
        fields["results"] = {
            port: [one.kind, one.stage, one.ratio, one.off]
            for port, one in line.results.items()
        }
    return fields


def understood(text: bytes) -> Line:
    """The line that was written; raises ValueError if it is none."""
    try:
        fields = json.loads(text)
        kind = _KINDS[fields.pop("line")]
        if kind is Checked:
            results = fields.pop("results")
            fields["results"] = {port: Result(*one) for port, one in results.items()}
        return kind(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{text[:60]!r} is no line of a state: {error}") from None


@dataclass(slots=True)
class Tail:
    """Reads a file that another process appends to, whole lines only."""

    path: Path
    offset: int = 0

    def new(self) -> Iterator[Line]:
        """The lines that came since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for text in file:
                if not text.endswith(b"\n"):
                    break
                try:
                    line = understood(text)
                except ValueError as error:
                    raise ValueError(
                        f"{self.path}, byte {self.offset}: {error}; cut the file off "
                        "there, and the rest is drawn again"
                    ) from None
                self.offset += len(text)
                yield line


def read(path: Path) -> list[Line]:
    """The complete lines of a stream, none if it has no file yet."""
    return list(Tail(path).new())


@dataclass(slots=True)
class Stream:
    """The only writer of a stream's file: it holds the lock on it.

    What was cut off in the middle of a line is removed, and drawn again.
    """

    path: Path
    #: What was there when it was opened.
    lines: list[Line] = field(default_factory=list)
    _file: int = -1

    def __enter__(self) -> Stream:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        # Waits for a worker of a killed run, which stops after its present case.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        tail = Tail(self.path)
        self.lines = list(tail.new())
        os.ftruncate(self._file, tail.offset)
        return self

    def __exit__(self, *error: object) -> None:
        self.sync()
        os.close(self._file)

    def append(self, line: Line) -> None:
        """Write a line; once it is complete, the case counts.

        Raises OSError, and leaves no part of it, where the disk is full.
        """
        text = spelt(line)
        written = os.write(self._file, text)
        if written < len(text):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        """Bring everything written onto the disk."""
        os.fsync(self._file)

    @property
    def drawn(self) -> int:
        """Cases that count towards the stream's share."""
        return sum(isinstance(one, Checked) and one.batch >= 0 for one in self.lines)

    @property
    def next_batch(self) -> int:
        """The first batch that has not ended."""
        ended = [one.batch for one in self.lines if isinstance(one, Ended)]
        return max(ended, default=CORPUS) + 1

    def replayed(self) -> set[str]:
        """Cases of the corpus that were checked."""
        return {
            one.case
            for one in self.lines
            if isinstance(one, Checked) and one.batch == CORPUS
        }

    def begun(self, batch: int) -> int:
        """How many cases of a batch were checked."""
        return sum(
            isinstance(one, Checked) and one.batch == batch for one in self.lines
        )

    def places(self, before: int) -> set[tuple[str, str, str]]:
        """Where batches before this one found failures."""
        return {
            one.place
            for one in self.lines
            if isinstance(one, Found) and one.batch < before
        }

    def unstudied(self, batch: int) -> bool:
        """Whether a batch was cut off between a failure and what lies behind it."""
        found = self.places(batch + 1)
        return any(
            Kind(one.kind).failed
            and (port, line.case.split()[0], one.stage) not in found
            for line in self.lines
            if isinstance(line, Checked) and line.batch == batch
            for port, one in line.results.items()
            if one.kind in list(Kind)
        )
