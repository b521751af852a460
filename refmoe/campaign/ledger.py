"""The ledger: every finding of a port, what became of it, and whether it came back.

    [[finding]]
    port = "my_port"
    op = "moe"
    stage = "out"
    cause = "the limit is left out (no_clamp)"
    status = "known"                                  # the author's: known, fixed
    reference = "https://example.org/my_port/issues/7"

The rest of an entry, and new entries, are written by campaigns.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

from refmoe.campaign.batch import Place
from refmoe.campaign.state import Found
from refmoe.campaign.totals import cause_of

STATUSES = ("new", "known", "fixed", "returned")
_KEY = ("port", "op", "stage", "cause")


@dataclass(frozen=True, slots=True)
class Entry:
    """One finding. `streams` counts its failures, by "CAMPAIGN.STREAM": none twice."""

    port: str
    op: str
    stage: str
    cause: str
    kind: str = ""
    case: str = ""
    first_seen: str = ""
    since: str = ""
    status: str = "new"
    reference: str = ""
    streams: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """What makes it this finding."""
        return self.port, self.op, self.stage, self.cause

    @property
    def count(self) -> int:
        """Its failures, in all campaigns."""
        return sum(self.streams.values())

    def here(self, campaign: str) -> bool:
        """Whether a campaign met it."""
        return any(name.startswith(f"{campaign}.") for name in self.streams)

    @property
    def fails(self) -> bool:
        """Whether it makes the exit status 1."""
        return self.status in ("new", "returned")


def read(path: Path) -> list[Entry]:
    """The entries of a ledger, none where there is no file.

    Raises ValueError naming file, entry and key of what is malformed: no TOML, an
    unknown key or status, known without a reference, an entry that stands twice.
    """
    if not path.exists():
        return []
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no valid TOML: {error}") from None
    found = [
        _entry(table, f"{path}: finding {number}")
        for number, table in enumerate(document.get("finding", []), 1)
    ]
    seen: set[tuple[str, ...]] = set()
    for number, entry in enumerate(found, 1):
        if entry.key in seen:
            raise ValueError(f"{path}: finding {number} stands twice; remove one")
        seen.add(entry.key)
    return found


def _entry(table: Mapping[str, Any], place: str) -> Entry:
    known = {one.name for one in fields(Entry)}
    given = {key: value for key, value in table.items() if key != "count"}
    for key in given:
        if key not in known:
            raise ValueError(f"{place}: {key!r} is unknown; use {', '.join(_KEY)} ...")
    for key in _KEY:
        if not isinstance(given.get(key), str):
            raise ValueError(f"{place}: {key} is missing; give a text")
    for key, value in given.items():
        if not isinstance(value, Mapping if key == "streams" else str):
            what = "a table" if key == "streams" else "a text"
            raise ValueError(f"{place}: {key}={value!r} is unfit; give {what}")
    entry = Entry(**given)
    if entry.status not in STATUSES:
        raise ValueError(
            f"{place}: status={entry.status!r} is unknown; use {', '.join(STATUSES)}"
        )
    if entry.status == "known" and not entry.reference:
        raise ValueError(
            f"{place}: known, but without a reference; say where it is tracked "
            "(https://...)"
        )
    return entry


def updated(
    entries: Iterable[Entry],
    findings: Iterable[tuple[Found, Mapping[int, int]]],
    campaign: str,
    failed: Collection[tuple[int, Place]] = (),
) -> list[Entry]:
    """The ledger with a campaign's findings, each with the number of its failures.

    The same findings once more change nothing. One that was fixed is "returned" if it
    fails in more cases than the campaign had counted, or failed in this run, at the
    streams and places `failed`. No count shrinks where a campaign is begun anew.
    """
    ledger = {entry.key: entry for entry in entries}
    for found, failures in findings:
        key = (*found.place, cause_of(found.cause))
        old = ledger.get(key) or Entry(
            *key, kind=found.kind, case=found.case, first_seen=found.first_seen,
            since=date.today().isoformat(),
        )  # fmt: skip
        streams, back = dict(old.streams), False
        for stream, count in failures.items():
            name = f"{campaign}.{stream}"
            back |= count > streams.get(name, 0) or (stream, found.place) in failed
            streams[name] = max(count, streams.get(name, 0))
        status = "returned" if old.status == "fixed" and back else old.status
        ledger[key] = replace(old, status=status, streams=streams)
    return list(ledger.values())


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write the ledger, whole or not at all."""
    lines = ["# Findings of campaigns; status and reference are yours to change."]
    for entry in entries:
        lines += ["", "[[finding]]"]
        lines += [
            f"{one.name} = {_text(getattr(entry, one.name))}"
            for one in fields(Entry)
            if one.name != "streams"
        ]
        counts = ", ".join(f"{_text(k)} = {n}" for k, n in entry.streams.items())
        lines += [f"count = {entry.count}", f"streams = {{ {counts} }}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines) + "\n", "utf-8")
    part.replace(path)


def _text(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
