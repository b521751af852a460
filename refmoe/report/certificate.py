"""The certificate of a run: everything needed to repeat and to compare it, as JSON.

Its `schema` is raised whenever a key changes its meaning or goes; new keys may come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from refmoe.protocol import OPS
from refmoe.report.about import About, versions
from refmoe.report.run import Run
from refmoe.report.table import rows
from refmoe.report.text import described, lines
from refmoe.verdict import Finding, Verdict
from refmoe.verify import Record

SCHEMA = 2


def certificate(run: Run) -> dict[str, Any]:
    """Ports, versions, device, verdicts, findings, and what never ran; plain JSON.

    JSON has no infinities: a ratio to a bound of zero is the text "inf".
    """
    records = run.records
    deviations = [record.deviating() for record in records]
    return {
        "schema": SCHEMA,
        "status": run.status,
        "executed": sum(record.kind.executed for record in records),
        "planned": max(run.planned, len(records)),
        "seed": run.seed,
        "seconds": round(run.seconds, 3),
        "versions": versions(),
        "ports": [{**asdict(port), **never_ran(port, records)} for port in run.ports],
        "verdicts": dict(Counter(str(record.kind) for record in records)),
        "cells": [
            {
                "port": row.port, "op": row.op, "of": row.subject, "inputs": row.inputs,
                "verdicts": {str(kind): count for kind, count in row.kinds.items()},
                "largest": {tap: _json(value) for tap, value in row.largest.items()},
                "median": {tap: _json(row.median(tap)) for tap in row.medians},
            }
            for row in rows(records)
        ],
        "findings": [_plain(finding) for finding in run.findings],
        "deviations": [_plain(finding) for finding in deviations if finding],
        "known_failures": [
            {
                "place": standing.entry.place, "reason": standing.entry.reason,
                "failed": standing.failed, "passed": standing.passed,
            }
            for standing in run.standings
        ],
        "cases": [
            {
                "port": record.port, "case": record.case, "verdict": str(record.kind),
                "seconds": round(record.seconds, 4), "tactic": record.tactic,
                "reason": reason(record),
            }
            for record in records
        ],
    }  # fmt: skip


def never_ran(port: About, records: Sequence[Record]) -> dict[str, Any]:
    """Ops that the port lacks or never executed, and cells of which nothing ran."""
    own = [record for record in records if record.port == port.name]
    ran = {record.cell for record in own if record.kind.executed}
    executed = {cell.op for cell in ran}
    idle: dict[Any, Record] = {}
    for record in own:
        if record.cell not in ran:
            idle.setdefault(record.cell, record)
    return {
        "never_ran": [name for name in OPS if name not in executed],
        "idle_cells": [
            {
                "op": cell.op, "of": cell.subject, "inputs": cell.inputs,
                "verdict": str(record.kind), "reason": reason(record),
            }
            for cell, record in idle.items()
        ],
    }  # fmt: skip


def reason(record: Record) -> str:
    """Why a case was not executed, in one line; empty where it was."""
    detail = "" if record.kind.executed else record.judgement.verdict.detail
    return detail.splitlines()[0] if detail else ""


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "case": finding.case,
        "op": finding.op,
        "port": finding.port,
        "verdict": str(finding.verdict.kind),
        "deviation": finding.deviation,
        "tap": finding.verdict.tap,
        "index": list(finding.verdict.index),
        "ratio": _json(finding.verdict.ratio),
        "median": _json(finding.verdict.median),
        "probability": finding.verdict.probability,
        "first": _first(finding.first),
        "cause": finding.cause,
        "tactic": finding.tactic,
        "text": lines(finding),
    }


def _first(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "tap": verdict.tap, "index": list(verdict.index), "text": described(verdict)
    }  # fmt: skip


def _json(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
