"""Which mutants a run takes up, and what an earlier report still says of them.

A report outlives an edit of the kernels. What is known of mutants stays where no
program that has their file in it was edited; the others run again, those of edited
files found by the text of their line, and as many of these files as were lost that way
are drawn anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from fuzz.mutator.building import users
from fuzz.mutator.mutants import Mutant, mutants, sample
from fuzz.mutator.report import Report, described, key_of, read


def taken_up(
    path: Path, texts: Mapping[str, str], count: int, seed: int
) -> tuple[Report, dict[str, Mutant]]:
    """The report to go on with, and mutants by id: its own, and more up to `count`.

    A report of another seed, or of no file, is an empty one.
    """
    old = read(path) if path.exists() else Report({})
    if old.about.get("seed", seed) != seed:
        old = Report({})
    sources = {name: _digest(text) for name, text in texts.items()}
    edited = _unlike(sources, old.about.get("sources", {}))
    every = [one for name, text in texts.items() for one in mutants(name, text)]
    by_id = {mutant.id: mutant for mutant in every}
    by_line = {key_of(described(one)): one for one in every if one.file in edited}
    again = beside(edited, texts)
    report = Report({**old.about, "sources": sources, "seed": seed})
    for name, entry in old.mutants.items():
        if entry["file"] not in again:
            report.mutants[name] = entry
            continue
        same = by_line.get(key_of(entry)) if entry["file"] in edited else by_id[name]
        if same is not None:
            report.enter(same, {})
    drawn = set(texts)
    if old.mutants and edited:
        report.about["runs"] = [*old.about.get("runs", ()), {"edited": sorted(edited)}]
        drawn &= edited
    own = {name: text for name, text in texts.items() if name in drawn}
    chosen = {name: by_id[name] for name in report.mutants}
    for mutant in sample(own, len(every), seed):
        if len(chosen) >= count:
            break
        chosen.setdefault(mutant.id, mutant)
    return report, chosen


def beside(edited: set[str], texts: Iterable[str]) -> set[str]:
    """Those of the files that stand in a program together with one of `edited`."""
    programs = {program for file in edited for program in users(file)}
    return edited | {file for file in texts if programs.intersection(users(file))}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unlike(new: Mapping[str, str], old: Mapping[str, str]) -> set[str]:
    return {name for name in {*new, *old} if new.get(name) != old.get(name)}
