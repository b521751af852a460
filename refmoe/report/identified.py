"""What identify found as text: a Numerics to paste, findings, evidence, open fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oracle.numerics import Elementary
from refmoe.identify import Evidence, Identified, Open


def text(found: Identified, *, evidence: bool = False) -> Iterator[str]:
    """The lines of a report.

    Findings come with their evidence, the other fields only with `evidence`.
    """
    yield f"numerics = {found.numerics!r}"
    for item in found.contradictions:
        yield ""
        yield (
            f"FINDING {item.field}: declared {_shown(item.declared)}, "
            f"found {_shown(item.value)}"
        )
        yield from _evidence(item)
    yield ""
    names = [_name(item, evidence) for item in found.evidence]
    width = max(map(len, names), default=0)
    shown: dict[str, list[str]] = {}
    for name, item in zip(names, found.evidence, strict=True):
        row = _row(item)
        if name != item.field:
            row = f"{item.field.removeprefix(name).strip()} {row}"
        shown.setdefault(name, []).append(row)
        if evidence:
            yield f"  {name:<{width}}  {row}"
            yield from _evidence(item)
    if not evidence:
        for name, parts in shown.items():
            yield f"  {name:<{width}}  {'; '.join(parts)}"
    for fields, reason in _reasons(found.open):
        yield f"  open: {', '.join(fields)}: {reason}"
    yield ""
    yield (
        f"{found.port}: {len(found.evidence)} fields found, {len(found.open)} open, "
        f"{len(found.contradictions)} findings; {found.calls} calls, "
        f"{found.seconds:.1f} s"
    )


def _name(item: Evidence, evidence: bool) -> str:
    """The field; without the evidence, choices of one block format are one line."""
    format, _, choice = item.field.partition(" ")
    grouped = choice and ("_" in format or ":" in format or format[-1:].isdigit())
    return format if grouped and not evidence else item.field


def _row(item: Evidence) -> str:
    """Value, what else would explain the outputs, and the declaration."""
    words = [_shown(item.value)]
    others = [_shown(value) for value in item.found if value != item.value]
    others = [] if isinstance(item.value, Elementary) else others
    if others:
        words.append(f"(or {', '.join(others)})")
    if item.status == "wider":
        words.append(f"declared wider: {_shown(item.declared)}")
    elif item.status == "contradicts":
        words.append(f"FINDING, declared {_shown(item.declared)}")
    elif item.status == "agrees":
        words.append("as declared")
    return " ".join(words)


def _evidence(item: Evidence) -> Iterator[str]:
    yield f"    {item.op}: {item.given} gave {item.output}"
    if item.candidates:
        each = (f"{name} {output}" for name, output in item.candidates.items())
        yield f"    expected of {', '.join(each)}"


def _reasons(still_open: tuple[Open, ...]) -> Iterator[tuple[list[str], str]]:
    """Fields by the reason that they share."""
    by_reason: dict[str, list[str]] = {}
    for item in still_open:
        by_reason.setdefault(item.reason, []).append(item.field)
    for reason, fields in by_reason.items():
        yield fields, reason


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
