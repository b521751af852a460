"""Records as text and back: they travel from a worker of pytest to its controller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refmoe.record import Record
from refmoe.report.about import About
from refmoe.worker.codec import decoded, encoded


@dataclass(frozen=True, slots=True)
class Carried:
    """What a test's report brings along: the port, its records, or the op it lacks."""

    port: About
    records: tuple[Record, ...] = ()
    missing: str = ""


def packed(port: About, records: Sequence[Record], missing: str) -> str:
    """The text; keys of records are told apart by their repr from now on."""
    plain = tuple(_plain(record) for record in records)
    return json.dumps(encoded(Carried(port, plain, missing)))


def _plain(record: Record) -> Record:
    study = record.study
    if study is not None:
        study = replace(study, smallest=_plain(study.smallest))
    return replace(record, key=tuple(map(repr, record.key)), study=study)


def unpacked(text: str) -> Carried:
    """What was packed."""
    return decoded(Carried, json.loads(text))
