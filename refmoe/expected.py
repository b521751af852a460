"""Known failures of a port, in a TOML file that its author owns.

    [[expected]]
    reason = "no masking of rows past 2^31, https://example.org/my_port/issues/7"
    kind = "WRONG"
    op = "moe"
    model = "gpt-oss-*"
    T = { min = 65 }

An entry covers the cases that meet every one of its conditions. A condition is a key of
a case (`op`, `model`, `T`, `regime`, `routing.scale` ...; where the case is silent, its
layer's value counts), `case` for the whole line, or `port`; its value is a text with
`*`, `?` and `[...]`, a number, true or false, a list of alternatives, or a table with
`min` and `max`. `kind` is the verdict that is expected, any failure where it is left
out. An entry whose cases ran and no longer fail is an error: remove it.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from oracle.spec.layer import PLAIN_TYPES
from refmoe.case import CHOICES, PARTS, Case, format_names, model_names
from refmoe.laws import LAWS
from refmoe.parse import parse
from refmoe.protocol import OPS, suggestion
from refmoe.regimes import REGIMES
from refmoe.verdict import Kind
from refmoe.verify import Record

#: Sizes that a case and its layer call by different names.
_LAYER_NAME = {"H": "hidden", "I": "intermediate", "E": "experts", "k": "top_k"}
_LINK = re.compile(r"https?://\S+")
_HEADER = re.compile(r"\s*\[\[\s*expected\s*\]\]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One known failure: the cases it covers, the verdicts it excuses, and why."""

    reason: str
    conditions: Mapping[str, Any]
    kinds: tuple[Kind, ...]
    #: Where it stands, as FILE:LINE.
    place: str = ""

    def __str__(self) -> str:
        words = " ".join(f"{key}={value}" for key, value in self.conditions.items())
        return f"{self.place}: {words} ({self.reason})"

    def covers(self, record: Record) -> bool:
        """Whether the record's case meets every condition."""
        return all(
            _meets(_value(record, key), want) for key, want in self.conditions.items()
        )

    def excuses(self, record: Record) -> bool:
        """Whether the record failed as the entry says it would."""
        return record.kind in self.kinds and self.covers(record)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an entry came out in a run: cases that failed as expected, and others."""

    entry: Entry
    failed: int
    passed: int

    @property
    def stale(self) -> bool:
        """Whether its cases ran and none of them failed as it says."""
        return not self.failed and self.passed > 0

    @property
    def used(self) -> bool:
        """Whether any of its cases ran."""
        return self.failed + self.passed > 0


def excuse(entries: Iterable[Entry], record: Record) -> Entry | None:
    """The first entry that expects this very failure."""
    return next((entry for entry in entries if entry.excuses(record)), None)


def standings(entries: Iterable[Entry], records: Sequence[Record]) -> list[Standing]:
    """How each entry came out over the cases that were executed."""
    found = []
    for entry in entries:
        ran = [r for r in records if r.kind.executed and entry.covers(r)]
        failed = sum(record.kind in entry.kinds for record in ran)
        found.append(Standing(entry, failed, len(ran) - failed))
    return found


def read(path: Path) -> list[Entry]:
    """The entries of a file.

    Raises ValueError naming file, line and key of what is malformed: no TOML, an
    unknown key, a reason without a link, no condition, an unknown verdict, a word that
    its key never has.
    """
    text = path.read_text()
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: no valid TOML: {error}") from None
    for key in document:
        if key != "expected":
            raise ValueError(
                f"{path}: {key!r} is unknown; write entries as [[expected]]"
            )
    tables = document.get("expected", [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise ValueError(
            f"{path}: 'expected' is no list; write entries as [[expected]]"
        )
    lines = text.splitlines()
    starts = [n for n, line in enumerate(lines) if _HEADER.match(line)]
    starts += [0] * (len(tables) - len(starts))
    return [
        _entry(table, path, lines, start)
        for table, start in zip(tables, starts, strict=False)
    ]


def _entry(
    table: Mapping[str, Any], path: Path, lines: Sequence[str], start: int
) -> Entry:
    def wrong(key: str, problem: str) -> ValueError:
        pattern = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*=""")
        rest = enumerate(lines[start:], start)
        line = next((n for n, text in rest if pattern.match(text)), start)
        return ValueError(f"{path}:{line + 1}: {key}: {problem}")

    reason = table.get("reason")
    if not isinstance(reason, str) or not _LINK.search(reason):
        raise wrong(
            "reason", "say why, with a link to where it is tracked (https://...)"
        )
    kinds = [kind for kind in Kind if kind.failed]
    if "kind" in table:
        known = [str(kind) for kind in Kind if kind.reported]
        if table["kind"] not in known:
            raise wrong("kind", f"{table['kind']!r} is not one of {', '.join(known)}")
        kinds = [Kind(table["kind"])]
    conditions: dict[str, Any] = {}
    for key, want in table.items():
        if key in PARTS and isinstance(want, dict):
            conditions |= {f"{key}.{inner}": value for inner, value in want.items()}
        elif key not in ("reason", "kind"):
            conditions[key] = want
    for key, want in conditions.items():
        if key not in _keys():
            raise wrong(key, f"no key of a case; {suggestion(key, _keys())}")
        if not _sound(want):
            raise wrong(
                key,
                f"{want!r} is no condition; give a text, a number, true, false, a list "
                "of them, or { min = ..., max = ... }",
            )
        for text in want if isinstance(want, list) else [want]:
            words = _values().get(key)
            if words and isinstance(text, str) and not fnmatch.filter(words, text):
                raise wrong(key, f"{text!r} is none; {suggestion(text, words)}")
    if not conditions:
        raise wrong("expected", 'no condition; say which cases, as in op = "moe"')
    return Entry(reason, conditions, tuple(kinds), f"{path}:{start + 1}")


def _keys() -> list[str]:
    """Everything that a condition may look at."""
    own = [field.name for field in fields(Case) if field.name != "changes"]
    nested = [
        f"{part}.{field.name}".removeprefix("layer.")
        for part, owner in PARTS.items()
        for field in fields(owner)
    ]
    return ["case", "port", *own, *(k for k in nested if k not in (*own, *PARTS))]


@cache
def _values() -> dict[str, Sequence[str]]:
    """What the keys may be that have one of some words."""
    found: dict[str, Sequence[str]] = {
        **CHOICES, "op": [*OPS], "model": model_names(), "regime": [*REGIMES],
        "law": [*LAWS], "format": format_names(), "dtype": PLAIN_TYPES,
    }  # fmt: skip
    forms = (*PLAIN_TYPES, *format_names())
    found |= dict.fromkeys(("weights", "activations", "requantize"), forms)
    for part, owner in PARTS.items():
        for name, kind in get_type_hints(owner).items():
            if get_origin(kind) is Literal:
                found[f"{part}.{name}".removeprefix("layer.")] = get_args(kind)
    return found


def _sound(want: Any) -> bool:
    if isinstance(want, list):
        return bool(want) and all(_plain(item) for item in want)
    if isinstance(want, dict):
        numbers = all(isinstance(edge, int | float) for edge in want.values())
        return bool(want) and set(want) <= {"min", "max"} and numbers
    return _plain(want)


def _plain(want: Any) -> bool:
    return isinstance(want, str | int | float)


def _value(record: Record, key: str) -> Any:
    if key in ("case", "port"):
        return getattr(record, key)
    case = _parsed(record.case)
    value = getattr(case, key, None)
    if value is not None:
        return value
    found: Any = case.layer
    for name in _LAYER_NAME.get(key, key).split("."):
        found = getattr(found, name, None)
    return getattr(found, "name", found)


@lru_cache(maxsize=4096)
def _parsed(line: str) -> Case:
    return parse(line, largest=None)


def _meets(value: Any, want: Any) -> bool:
    if isinstance(want, list):
        return any(_meets(value, item) for item in want)
    if value is None:
        return False
    if isinstance(want, dict):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = want.get("min", value), want.get("max", value)
        return bool(low <= value <= high)
    if isinstance(want, str):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return fnmatch.fnmatchcase(text, want)
    return isinstance(value, bool) == isinstance(want, bool) and bool(value == want)
