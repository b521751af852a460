"""Minimised cases as lines of text files, replayed before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from refmoe.parse import parse

#: Where campaigns put the cases that they find.
_FOUND = "found.txt"


def read(folder: Path) -> tuple[str, ...]:
    """The cases of every `*.txt`; `#` begins a comment.

    Raises ValueError naming file and line of what is no case.
    """
    found: dict[str, None] = {}
    for path in sorted(folder.glob("*.txt")):
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8: {error}") from None
        for number, text in enumerate(lines, 1):
            line = text.partition("#")[0].strip()
            if not line:
                continue
            try:
                found[str(parse(line))] = None
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    return tuple(found)


def add(folder: Path, cases: Iterable[str]) -> None:
    """Append the cases that are not there yet."""
    old = read(folder)
    new = [case for case in dict.fromkeys(cases) if case not in old]
    if new:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _FOUND).open("a", encoding="utf-8") as file:
            file.writelines(f"{case}\n" for case in new)
