"""A score as the tables of a README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from refmoe.score.text import percent

Part = dict[str, Any]


def tables(parts: dict[str, Part]) -> tuple[str, str]:
    """What was measured, and other comparisons; the part `cuda` may be missing."""
    measured = [("measured", "result"), *_measured(parts)]
    rules = [
        (
            "comparison", "mistakes killed", "honest ports failed",
            "least scale error", "least zeros of 2^20",
        ),
        *_rules(parts),
    ]  # fmt: skip
    return _markdown(measured), _markdown(rules)


def _measured(parts: dict[str, Part]) -> Iterator[tuple[str, str]]:
    kills, matrix = parts["kills"], parts["matrix"]
    power, honest = parts["power"], parts["honest"]
    each = matrix["cases_of_each_property"]
    for kind in ("mistake", "cheat"):
        own = [one["status"] for one in matrix["mutants"] if one["kind"] == kind]
        rest = (f"{own.count(name)} {name}" for name in ("survived", "never ran"))
        told = ", ".join(text for text in rest if not text.startswith("0 "))
        killed = f"{own.count('killed')} of {len(own)}" + (f"; {told}" if told else "")
        yield f"{kind}s of the gallery killed, {each} cases a property", killed
    title = "all of them by a verification each, up to its first finding"
    spent = f"in {kills['made']['seconds']:.0f} s by {kills['processes']} processes"
    yield title, f"{kills['killed']} of {kills['of']} {spent}"
    if "cuda" in parts:
        cuda = parts["cuda"]
        yield "mutants of our CUDA kernels seen", f"{cuda['seen']} of {cuda['of']}"
    scales = power["scales"]
    for extent in dict.fromkeys(one["extent"] for one in scales):
        own = [one["smallest"]["1"] for one in scales if one["extent"] == extent]
        worst = None if None in own else max(own)
        formats = len({one["format"] for one in scales})
        title = f"error of {extent} that one case shows, in each of {formats} formats"
        yield title, percent(worst)
    one = power["elements"]
    title = f"an element of {one['of']}, moved just out of its bound"
    yield title, f"{one['caught']} of {one['moved']} caught"
    high = honest["interval_95"][1]
    found = f"{len(honest['alarms'])} in {honest['decided']} cases"
    title = f"false alarms of {honest['ports']} honest ports"
    yield title, f"{found}; below {high:.1e} at 95 % confidence"


def _rules(parts: dict[str, Part]) -> Iterator[tuple[str, ...]]:
    for row in parts["rules"]["rules"]:
        least = parts["power"]["rejected"][row["rule"]]
        yield (
            row["rule"], f"{row['killed']} of {row['mistakes']}",
            f"{row['failed']} of {row['honest']}", percent(least["scale"]),
            str(least["elements"] or "never"),
        )  # fmt: skip


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
