"""The results as a file, written as they come: a run that is killed goes on."""

from __future__ import annotations

import json
import os
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.mutator.mutants import Mutant

SCHEMA = 1
EXPLAINED = Path(__file__).with_name("explained.toml")
STATUS = (
    "killed", "crashed", "hung", "survived", "equivalent", "not compiling", "never ran",
)  # fmt: skip
#: Of them those in which the suite saw the mutant.
SEEN = ("killed", "crashed", "hung")

Key = tuple[str, str, str, str, str]
_KEY = ("file", "function", "operator", "before", "after")


@dataclass(slots=True)
class Report:
    """What became of each mutant, by id, and where."""

    about: dict[str, Any]
    mutants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def enter(self, mutant: Mutant, found: Mapping[str, Any]) -> None:
        """A mutant's result."""
        self.mutants[mutant.id] = {**described(mutant), **found}

    def explain(self, known: Mapping[Key, Explanation]) -> None:
        """Put down what is known of those that survived."""
        for entry in self.mutants.values():
            one = known.get(key_of(entry)) if entry["status"] == "survived" else None
            if one is not None:
                entry["reason"] = one.reason
                if one.kind == "equivalent":
                    entry["status"] = "equivalent"

    def rate(self) -> tuple[int, int]:
        """How many mutants were seen, of those that ran and are not equivalent."""
        count = Counter(entry["status"] for entry in self.mutants.values())
        seen = sum(count[status] for status in SEEN)
        return seen, seen + count["survived"]

    def document(self) -> dict[str, Any]:
        """The report as JSON has it."""
        count = Counter(entry["status"] for entry in self.mutants.values())
        return {
            "schema": SCHEMA, **self.about,
            "counts": {status: count[status] for status in STATUS},
            "mutants": list(self.mutants.values()),
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """At once: whoever reads never sees half of it."""
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(self.document(), indent=1) + "\n")
        os.replace(new, path)


def read(path: Path) -> Report:
    """The report in a file. Raises ValueError for one of another schema."""
    about = json.loads(path.read_text())
    if about.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: no report of schema {SCHEMA}")
    del about["counts"]
    return Report(about, {entry["id"]: entry for entry in about.pop("mutants")})


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a mutant is no mistake (`equivalent`), or why nothing here shows that it is.

    It goes by the text of the line before and after, the operator and the function:
    an edit of the source makes it fit nothing, never another mutant.
    """

    kind: str
    reason: str


def explanations(path: Path = EXPLAINED) -> dict[Key, Explanation]:
    """What is on file. Raises ValueError for an entry that lacks something."""
    if not path.exists():
        return {}
    found: dict[Key, Explanation] = {}
    for kind, entries in tomllib.loads(path.read_text()).items():
        if kind not in ("equivalent", "surviving"):
            raise ValueError(f"{path.name}: [[{kind}]]; use equivalent or surviving")
        for entry in entries:
            reason = entry.get("reason", "").strip()
            missing = [word for word in _KEY if word not in entry]
            if missing or not reason:
                raise ValueError(
                    f"{path.name}: an entry of {entry.get('file')} lacks "
                    f"{', '.join(missing) or 'a reason'}"
                )
            found[key_of(entry)] = Explanation(kind, reason)
    return found


def key_of(entry: Mapping[str, Any]) -> Key:
    """What the explanation of a mutant, as the report has it, goes by."""
    file, function, operator, before, after = (entry[word] for word in _KEY)
    return file, function, operator, before, after


def described(mutant: Mutant) -> dict[str, Any]:
    """What the report says of a mutant before it has run."""
    return {
        "id": mutant.id, "file": mutant.file, "line": mutant.line,
        "operator": mutant.operator, "function": mutant.function,
        "before": mutant.before, "after": mutant.after, "status": "never ran",
        "killed_by": [], "case": "", "seconds": 0.0, "reason": "",
    }  # fmt: skip


def stale(known: Iterable[Key], mutants: Iterable[Mutant]) -> list[Key]:
    """Explanations that fit no mutant any more."""
    there = {key_of(described(mutant)) for mutant in mutants}
    return [key for key in known if key not in there]


def shown(report: Report) -> str:
    """The report in words: counts, then what survived."""
    document = report.document()
    seen, of = report.rate()
    lines = [", ".join(f"{n} {s}" for s, n in document["counts"].items() if n)]
    if of:
        lines.append(f"{seen} of {of} that are not equivalent: {100 * seen / of:.1f} %")
    for entry in report.mutants.values():
        if entry["status"] == "survived":
            lines += [
                f"survived {entry['id']} in {entry['function']}",
                f"  - {entry['before']}",
                f"  + {entry['after']}",
                *([f"  {entry['reason']}"] if entry["reason"] else []),
            ]
    return "\n".join(lines)
