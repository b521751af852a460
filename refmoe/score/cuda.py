"""Mutants of CUDA sources: a file of `fuzz.mutator`, read and summed up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from refmoe.protocol import suggestion
from refmoe.score.document import parsed

#: What can become of a mutant, and whether that means that it was seen.
STATUS = {
    "killed": True, "crashed": True, "hung": True, "survived": False,
    "equivalent": None, "not compiling": None, "never ran": None,
}  # fmt: skip
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str, "file": str, "line": int, "operator": str, "before": str, "after": str,
    "status": str, "killed_by": list, "case": str, "seconds": (int, float),
    "reason": str,
}  # fmt: skip


def joined(path: Path) -> dict[str, Any]:
    """The part `cuda` of a score: counts by operator and property, and survivors.

    Raises ValueError for a file that is no report of the mutator.
    """
    whole = parsed(path)
    mutants = whole.get("mutants")
    if not isinstance(mutants, list):
        raise ValueError(f"{path}: there is no list `mutants`")
    for number, one in enumerate(mutants):
        _check(path, number, one)
    seen = [one for one in mutants if STATUS[one["status"]]]
    ran = [one for one in mutants if STATUS[one["status"]] is not None]
    operators: dict[str, list[int]] = {}
    for one in ran:
        count = operators.setdefault(one["operator"], [0, 0])
        count[0] += bool(STATUS[one["status"]])
        count[1] += 1
    alone = Counter(one["killed_by"][0] for one in seen if len(one["killed_by"]) == 1)
    return {
        "devices": dict(Counter(one.get("device", "") for one in ran)),
        "mutants": len(mutants),
        "seen": len(seen), "of": len(ran),
        "statuses": dict(Counter(one["status"] for one in mutants)),
        "operators": operators,
        "killed_by": dict(Counter(name for one in seen for name in one["killed_by"])),
        "alone": dict(alone),
        "survivors": [
            {key: one[key] for key in ("id", "before", "after", "reason")}
            for one in mutants if one["status"] == "survived"
        ],
    }  # fmt: skip


def _check(path: Path, number: int, one: Any) -> None:
    if not isinstance(one, dict):
        raise ValueError(f"{path}: mutant {number} is no object")
    place = f"{path}: mutant {one.get('id', number)}"
    for name, types in _FIELDS.items():
        if not isinstance(one.get(name), types):
            raise ValueError(f"{place}: {name} is {one.get(name)!r}")
    if one["status"] not in STATUS:
        hint = suggestion(one["status"], STATUS)
        raise ValueError(f"{place}: no status is called {one['status']!r}; {hint}")
