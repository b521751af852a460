"""A score as a file: parts, each with what made it; one can be made anew alone."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from refmoe.protocol import suggestion
from refmoe.report.about import versions

SCHEMA = 1
#: The parts, in the order in which they are made and shown.
PARTS = ("kills", "matrix", "power", "rules", "cuda", "honest")


@dataclass(slots=True)
class Score:
    """The parts that are there, by name."""

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put(
        self, name: str, part: dict[str, Any], command: str, seconds: float
    ) -> None:
        """A part in the place of the one before, with what made it."""
        made = {
            "command": command, "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(), "seconds": round(seconds, 1), "versions": versions(),
        }  # fmt: skip
        self.parts[name] = {"made": made, **part}

    def write(self, path: Path) -> None:
        """At once, so that whoever reads never sees half of it."""
        ordered = {name: self.parts[name] for name in PARTS if name in self.parts}
        whole = {"schema": SCHEMA, **ordered}
        new = path.with_name(f"{path.name}.new")
        new.write_text(_text(whole) + "\n")
        os.replace(new, path)


def read(path: Path) -> Score:
    """The score in a file; an empty one where there is no file yet.

    Raises ValueError for what is no score of this schema, or has no place to be.
    """
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}")
        return Score()
    whole = parsed(path)
    for name in whole:
        if name != "schema" and name not in PARTS:
            raise ValueError(f"{path}: no part is called {name!r}; {_hint(name)}")
    return Score({name: whole[name] for name in PARTS if name in whole})


def parsed(path: Path) -> dict[str, Any]:
    """A JSON object with `schema` 1; raises ValueError that names the file."""
    try:
        whole = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(whole, dict) or whole.get("schema") != SCHEMA:
        have = whole.get("schema") if isinstance(whole, dict) else type(whole).__name__
        raise ValueError(
            f"{path}: schema {have!r}; this version reads objects of schema {SCHEMA}"
        )
    return whole


def part_called(name: str) -> str:
    """The part of that name; raises ValueError with the closest one."""
    if name not in PARTS:
        raise ValueError(f"score: no part is called {name!r}; {_hint(name)}")
    return name


def _hint(name: str) -> str:
    return suggestion(name, PARTS)


@cache
def commit() -> str:
    """The commit of the checkout that this code lies in, "" where it lies in none.

    As it was when first asked: what is written later changes a checkout too.
    """
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=7"],
            cwd=here, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return ""
    return done.stdout.strip()


def _text(value: Any, indent: str = "") -> str:
    """JSON in lines: what has objects inside is broken, all else stays on one line."""
    if isinstance(value, dict) and any(
        isinstance(v, dict | list) for v in value.values()
    ):
        inner = [
            f"{json.dumps(key)}: {_text(v, indent + ' ')}" for key, v in value.items()
        ]
        ends = "{}"
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        inner, ends = [json.dumps(v) for v in value], "[]"
    else:
        return json.dumps(value)
    lines = f",\n{indent} ".join(inner)
    return f"{ends[0]}\n{indent} {lines}\n{indent}{ends[1]}"
