"""The arithmetic of a GPU's units, measured: `python3 .../hardware.py --json FILE`.

Writes what probes find of each instruction, how many random dot products the model so
found gets right bit for bit, samples of both, the errors and bits of elementary
functions, and how torch casts. Everything is tried for itself: a failure is recorded
and the rest goes on. FILE with ending .pt keeps the bits of all random dot products.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[2])]

import torch  # noqa: E402
from on_gpu import hardware_casts, hardware_functions, hardware_results  # noqa: E402
from on_gpu.hardware_model import Model, dot  # noqa: E402
from on_gpu.hardware_operands import KINDS, random  # noqa: E402
from on_gpu.hardware_probes import Prober  # noqa: E402
from on_gpu.hardware_units import UNITS, Gpu, Machine, Modelled, Unit  # noqa: E402

from refmoe.kernels import compiler  # noqa: E402

Findings = dict[str, Any]


def attempt(findings: Findings, name: str, action: Callable[[], object]) -> None:
    """Run an action; what breaks is recorded under `name`."""
    try:
        action()
    except Exception:
        findings.setdefault("failed", {})[name] = traceback.format_exc(limit=-4)


def _put(section: Findings, name: str, part: Callable[[], Any]) -> None:
    section[name] = part()


def measure(
    machine: Machine, unit: Unit, count: int, samples: int, kept: dict[str, Any]
) -> Findings:
    """Probe one unit, then hold its model to random dot products."""
    prober = Prober(machine, unit)
    found = prober.found
    if unit.result == "int32":
        blocks = (tuple(range(unit.depth)),)
        model: Model | None = Model(
            "s8", "int32", blocks, True, 31, 31, "zero", 0
        )  # fmt: skip
    else:
        model = None
        for probe in hardware_results.PROBES:
            attempt(found, probe.__name__, partial(probe, prober))
        try:
            model = hardware_results.model_of(unit, found)
        except Exception:
            found.setdefault("failed", {})["model"] = traceback.format_exc(limit=-2)
    found["model"] = model and asdict(model)
    for kind in KINDS:
        attempt(
            found, f"random {kind}",
            partial(_confirm, machine, unit, model, kind, count, samples, kept, found),
        )  # fmt: skip
    return found


def _confirm(
    machine: Machine,
    unit: Unit,
    model: Model | None,
    kind: str,
    count: int,
    samples: int,
    kept: dict[str, Any],
    found: Findings,
) -> None:
    operands = random(unit.operand, unit.result, unit.depth, kind, count)
    got = machine.run(unit, *operands)
    digits = 4 if unit.result == "fp16" else 8
    entry: Findings = {
        "count": count,
        "sha256": hashlib.sha256(got.to(torch.int32).numpy().tobytes()).hexdigest(),
        "bits": [f"{bits:0{digits}x}" for bits in got[:samples].tolist()],
    }
    found.setdefault("random", {})[kind] = entry
    kept[f"{unit.name} {kind}"] = got.to(torch.int32)
    if model is not None:
        want = dot(model, *operands)
        wrong = (want != got).nonzero()[:, 0]
        entry["wrong"] = len(wrong)
        entry["first wrong"] = [
            {
                "x": [f"{bits:x}" for bits in operands[0][i].tolist()],
                "y": [f"{bits:x}" for bits in operands[1][i].tolist()],
                "c": f"{int(operands[2][i]):x}",
                "got": f"{int(got[i]):x}",
                "model": f"{int(want[i]):x}",
            }
            for i in wrong[:3].tolist()
        ]


def written(findings: Findings) -> str:
    """JSON with lists of plain values on one line each."""
    text = json.dumps(findings, indent=1)
    flat = re.compile(r"\[\s+[^][{}]*?\s+\]")
    return flat.sub(lambda found: " ".join(found[0].split()), text) + "\n"


def describe() -> Findings:
    """The machine and the versions that ran."""
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "nvrtc": list(compiler.version()),
        "python": sys.version.split()[0],
    }


def modelled() -> Modelled:
    """Units as the literature has them, for trying this script without a GPU."""
    models = {}
    for unit in UNITS:
        every = tuple(range(unit.depth))
        narrow = unit.operand in ("e4m3", "e5m2")
        wide = unit.name.startswith("wgmma")
        blocks = (every,)
        if narrow and not wide:
            low = tuple(k for k in every if k % 4 < 2)
            blocks = (low, tuple(k for k in every if k % 4 >= 2))
        bits = 13 if narrow and wide else 25
        out, how = (10, "even") if unit.result == "fp16" else (23, "zero")
        models[unit.name] = Model(
            unit.operand, unit.result, blocks, not narrow or wide, bits,
            min(out, bits), how, -133,
        )  # fmt: skip
    return Modelled(models)


def main() -> int:
    """Measure everything that was asked for; 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="parts whose names contain this")
    parser.add_argument("--count", type=int, default=1 << 14, help="of each kind")
    parser.add_argument("--samples", type=int, default=24, help="kept of each kind")
    parser.add_argument("--model", action="store_true", help="models for units, no GPU")
    options = parser.parse_args()
    machine: Machine = modelled() if options.model else Gpu()
    findings: Findings = {"machine": describe(), "units": {}, "functions": {}}
    findings |= {"casts": {}, "seconds": {}}
    kept: dict[str, Any] = {}
    parts: dict[str, tuple[str, Callable[[], Any]]] = {}
    if not options.model:
        for name in hardware_functions.FUNCTIONS:
            parts[name] = "functions", partial(hardware_functions.measure, name)
        for name in hardware_casts.CASTS:
            parts[f"cast to {name}"] = "casts", partial(hardware_casts.measure, name)
    for unit in UNITS:
        action = partial(measure, machine, unit, options.count, options.samples, kept)
        parts[unit.name] = "units", action
    for name, (section, part) in parts.items():
        if options.only and not any(word in name for word in options.only):
            continue
        start = time.perf_counter()
        attempt(findings, name, partial(_put, findings[section], name, part))
        spent = findings["seconds"][name] = round(time.perf_counter() - start, 2)
        wrong = {
            kind: entry.get("wrong")
            for kind, entry in findings["units"].get(name, {}).get("random", {}).items()
        }
        failed = findings["units"].get(name, {}).get("failed", {})
        print(f"{name}: {spent} s", wrong or "", list(failed) or "", flush=True)
        options.json.write_text(written(findings))
    torch.save(kept, options.json.with_suffix(".pt"))
    for name, failure in findings.get("failed", {}).items():
        print(f"{name} failed:\n{failure}")
    return int("failed" in findings)


if __name__ == "__main__":
    sys.exit(main())
