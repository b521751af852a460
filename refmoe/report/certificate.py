"""The certificate of a run: everything needed to repeat and to compare it, as JSON."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from refmoe.port import Port
from refmoe.protocol import OPS
from refmoe.report.table import rows
from refmoe.report.text import described, lines
from refmoe.verdict import Finding
from refmoe.verify import Record, findings


def certificate(
    ports: Sequence[Port],
    records: Sequence[Record],
    *,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Ports, versions, device, verdicts, findings, and what never ran; plain JSON."""
    executed = {(r.port, r.cell.op) for r in records if r.kind.executed}
    deviations = [record.deviating() for record in records]
    return {
        "certificate": 1,
        "versions": versions(),
        "devices": devices(ports),
        "seed": seed,
        "seconds": round(seconds, 3),
        "ports": [
            {
                "name": port.name,
                "version": port.get("version"),
                "device": port.device,
                "ops": list(port.ops),
                "declared": port.declared,
                "numerics": repr(port.numerics),
                "never_ran": [op for op in OPS if (port.name, op) not in executed],
            }
            for port in ports
        ],
        "verdicts": dict(Counter(str(record.kind) for record in records)),
        "cells": [
            {
                "port": row.port, "op": row.op, "of": row.subject, "regime": row.regime,
                "verdicts": {str(kind): count for kind, count in row.kinds.items()},
                "largest": row.largest,
                "median": {tap: row.median(tap) for tap in row.medians},
            }
            for row in rows(records)
        ],
        "findings": [_plain(finding) for finding in findings(records)],
        "deviations": [_plain(finding) for finding in deviations if finding],
        "cases": [
            {"port": record.port, "case": record.case, "verdict": str(record.kind)}
            for record in records
        ],
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("refmoe", "cupy", "transformers", "torchao"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def devices(ports: Sequence[Port]) -> list[str]:
    """Names of the devices that the ports ran on."""
    found = []
    for device in dict.fromkeys(port.device for port in ports):
        if device.startswith("cuda"):
            major, minor = torch.cuda.get_device_capability(device)
            found.append(f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})")
        else:
            found.append(f"{device} ({platform.machine()})")
    return found


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "case": finding.case,
        "op": finding.op,
        "port": finding.port,
        "verdict": str(finding.verdict.kind),
        "tap": finding.verdict.tap,
        "index": list(finding.verdict.index),
        "first": None if finding.first is None else described(finding.first),
        "cause": finding.cause,
        "text": lines(finding),
    }
