"""Records as plain values and back: they travel from a worker to its controller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any

from refmoe.judge import Judgement
from refmoe.plan import Cell
from refmoe.report.about import About
from refmoe.verdict import Kind, Verdict
from refmoe.verify import Record

_CARRIED = (Record, Judgement, Verdict, Cell, About)


def packed(value: Any) -> Any:
    """Dataclasses as mappings, tuples as lists, anything unknown as its repr."""
    if isinstance(value, Enum):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, _CARRIED):
        return {
            field.name: packed(getattr(value, field.name)) for field in fields(value)
        }
    if isinstance(value, tuple | list):
        return [packed(item) for item in value]
    return repr(value)


def record(plain: Mapping[str, Any]) -> Record:
    """The record that was packed; its key is told apart by text from now on."""
    judgement, deviation = plain["judgement"], plain["deviation"]
    changed = {
        "cell": Cell(**plain["cell"]),
        "key": tuple(plain["key"]),
        "judgement": _judgement(judgement),
        "deviation": None if deviation is None else _judgement(deviation),
    }
    return Record(**{**plain, **changed})


def port(plain: Mapping[str, Any]) -> About:
    """The description of a port that was packed."""
    return About(**{**plain, "ops": tuple(plain["ops"])})


def _judgement(plain: Mapping[str, Any]) -> Judgement:
    first = plain["first"]
    changed = {
        "verdict": _verdict(plain["verdict"]),
        "results": tuple(map(_verdict, plain["results"])),
        "first": None if first is None else _verdict(first),
        "fitting": tuple(plain["fitting"]),
    }
    return Judgement(**{**plain, **changed})


def _verdict(plain: Mapping[str, Any]) -> Verdict:
    changed = {"kind": Kind(plain["kind"]), "index": tuple(plain["index"])}
    return Verdict(**{**plain, **changed})
