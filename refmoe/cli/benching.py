"""`refmoe bench`: what is measured, printed as it comes."""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import asdict
from pathlib import Path

from refmoe.report import terminal


def run_bench(prefix: str) -> None:
    """What the room `bench` has under this prefix."""
    from refmoe import bench

    console = terminal.console_for()
    for module in pkgutil.iter_modules(bench.__path__):
        if not module.name.startswith(prefix):
            continue
        console.print(f"{module.name} ...", style="dim", highlight=False)
        result = importlib.import_module(f"{bench.__name__}.{module.name}").run()
        for row in result if isinstance(result, list) else [result]:
            values = asdict(row)
            if hasattr(row, "ratio"):
                values["ratio"] = row.ratio
            words = (f"{key} {_short(value)}" for key, value in values.items())
            console.print("  ".join(words), highlight=False, soft_wrap=True)


def run_kernels(path: Path | None) -> None:
    """The kernels' times on this GPU, all of them in a JSON file too.

    Raises OSError without a GPU.
    """
    console = terminal.console_for()
    kept = []
    for time in importlib.import_module("refmoe.kernels.bench").run():
        console.print(f"{time.name:44} {time}", highlight=False, soft_wrap=True)
        kept.append(asdict(time))
        if path is not None:
            path.write_text(json.dumps(kept, indent=1) + "\n")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
