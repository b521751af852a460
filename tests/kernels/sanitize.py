"""The kernels under NVIDIA's sanitizers: `python3 tests/kernels/sanitize.py --json F`.

Each tool of compute-sanitizer runs `gpu_check.py --touch`, which reaches every kernel,
without PyTorch's memory pool (CuPy allocates nothing here). Findings count by whose
kernel they are in; the exit status is 1 if a tool finds something in ours, or if the
cases under it fail or do not end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from refmoe.kernels import catalogue  # noqa: E402

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
#: PyTorch's own kernels, by a part of their mangled names. What they write is followed
#: by initcheck alone, which must know what was written.
_OTHERS = "kns=2at6native"
_BLOCK = re.compile(r"\n(?=={9} [^ ])")
_CASES = "python3 tests/kernels/gpu_check.py --touch"
_KERNEL = re.compile(r"={9}     (?:at|and \w+ access at)\s+(.*)\+0x")
_HEAD = re.compile(r"={9} (?!COMPUTE|ERROR|RACECHECK)(\S.*?)(?: between .*)?\n")


def main() -> int:
    """Run the tools side by side; 0 if all are clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--tool", nargs="*", default=TOOLS, choices=TOOLS)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    version = subprocess.run(
        ["compute-sanitizer", "--version"], capture_output=True, text=True, check=True
    )
    about = {"compute-sanitizer": version.stdout.strip().splitlines()[-1]}
    with ThreadPoolExecutor(len(options.tool)) as pool:
        runs = [pool.submit(run, tool, 60 * options.minutes) for tool in options.tool]
        results = {
            tool: made.result() for tool, made in zip(options.tool, runs, strict=True)
        }
    options.json.write_text(json.dumps({**about, "tools": results}, indent=1))
    clean = True
    for tool, result in results.items():
        ok = result["status"] == 0 and not result["in our kernels"]
        clean &= ok
        print(f"{tool:<10} {'clean' if ok else 'NOT CLEAN'}: {result['cases']}, "
              f"{sum(result['in our kernels'].values())} findings in our kernels, "
              f"{sum(result['elsewhere'].values())} elsewhere, "
              f"{result['seconds']:.0f} s")  # fmt: skip
    return 0 if clean else 1


def run(tool: str, limit: float) -> dict[str, Any]:
    """One tool over the cases: what it found where, and how the cases ended."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        log, report = Path(folder, "log"), Path(folder, "report.json")
        command = [
            "compute-sanitizer", "--tool", tool, "--print-limit", "0",
            "--show-backtrace", "no",
            *(() if tool == "initcheck" else ("--kernel-name-exclude", _OTHERS)),
            "--log-file", str(log),
            sys.executable, str(HERE / "gpu_check.py"), "--touch", "--json",
            str(report),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, timeout=limit, capture_output=True, text=True, check=False,
                env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            )  # fmt: skip
            status, tail = done.returncode, (done.stdout + done.stderr)[-2000:]
        except subprocess.TimeoutExpired:
            status, tail = -1, f"not done after {limit:g} s"
        ours, others = findings(log.read_text() if log.exists() else "")
        checks = json.loads(report.read_text())["results"] if report.exists() else []
    failed = [check["name"] for check in checks if not check["passed"]]
    return {
        "status": status,
        "seconds": time.perf_counter() - start,
        "command": " ".join([*command[: command.index("--log-file")], _CASES]),
        "cases": f"{len(checks)} cases, {len(failed)} failed",
        "failed": failed,
        "in our kernels": dict(ours),
        "elsewhere": dict(others),
        "tail": "" if status == 0 else tail,
    }


def findings(log: str) -> tuple[Counter[str], Counter[str]]:
    """Findings in our kernels and in those of others, counted by what and where."""
    own = {
        expression.split("<")[0]
        for expressions in catalogue.instances().values()
        for expression in expressions
    }
    ours, others = Counter[str](), Counter[str]()
    for block in _BLOCK.split(log):
        head, kernel = _HEAD.match(block), _KERNEL.search(block)
        if head is None or kernel is None:
            continue
        where = kernel[1]
        names = set(re.findall(r"\w+", where))
        found = ours if names & own and "at::" not in where else others
        found[f"{head[1]} in {where[:200]}"] += 1
    return ours, others


if __name__ == "__main__":
    sys.exit(main())
