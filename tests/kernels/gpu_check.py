"""Judge every kernel on a GPU, and time it: `python3 tests/kernels/gpu_check.py`.

Needs PyTorch, CuPy and cuda.bindings, no pytest and no network. Each check stands
alone; the exit status is 1 if one fails. `--emulate` runs what can run without a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import torch  # noqa: E402
from on_gpu import (  # noqa: E402
    bounded,
    dropped,
    exact,
    gemm_times,
    judged,
    launching,
    machine,
    multiplied,
    older,
    quantised,
    times,
    touching,
)
from on_gpu.place import Place  # noqa: E402
from on_gpu.report import Check, Report  # noqa: E402

from refmoe.kernels import cache, catalogue, loader  # noqa: E402
from refmoe.kernels.bench.compiling import compiling  # noqa: E402
from refmoe.kernels.bench.host import launches  # noqa: E402
from refmoe.kernels.bench.memory import memory_bound  # noqa: E402
from refmoe.kernels.bench.routing import product_keys, routers  # noqa: E402

Section = Callable[[Place], Iterable[Check]]
CORRECT: dict[str, Section] = {
    "conversions": quantised.conversions,
    "denormals": machine.denormals,
    "quantise, dequantise": quantised.quantising,
    "scale rules": quantised.scaling,
    "odd blocks": quantised.odd_blocks,
    "grouped quantise": quantised.grouping,
    "permute, combine": exact.permuting,
    "activation": bounded.activating,
    "routing": bounded.routing,
    "product keys": exact.product_keys,
    "one-neuron experts": bounded.one_neuron,
    "grouped GEMM": multiplied.multiplying,
    "packed weights": multiplied.packing,
    "drop-ins": dropped.dropping_in,
    "judge": judged.judging,
    "judge, older GPUs": older.judging,
    "again, streams": launching.repeating,
}
#: A little of everything, for the sanitizers.
_SAMPLED = {name: run for name, run in CORRECT.items() if "judge" not in name}
TOUCH: dict[str, Section] = {"sample": partial(touching.touching, _SAMPLED)}
ONLY_GPU: dict[str, Section] = {
    "graph capture": launching.capturing,
    "older targets": machine.older_targets,
    "offsets past 2^31": machine.far_offsets,
}


def main() -> int:
    """Run the sections that were asked for; 0 if all checks pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write results and numbers here")
    parser.add_argument("--only", nargs="*", help="sections whose names contain this")
    parser.add_argument(
        "--touch", action="store_true", help="a few cases of each kernel (sanitizers)"
    )
    parser.add_argument("--no-times", action="store_true", help="correctness alone")
    parser.add_argument("--emulate", action="store_true", help="on the CPU, small")
    options = parser.parse_args()
    report = Report()
    sections = CORRECT if options.emulate else CORRECT | ONLY_GPU
    if options.touch:
        # Sanitizers run without PyTorch's memory pool, which graphs need.
        sections = TOUCH
    if options.only:
        sections = {
            name: section
            for name, section in sections.items()
            if any(word in name for word in options.only)
        }
    start = time.perf_counter()
    if options.emulate:
        from refmoe.kernels.emulator import emulated

        with emulated():
            _correct(report, sections, Place(torch.device("cpu"), False))
    else:
        place = Place(
            torch.device("cuda", torch.cuda.current_device()), not options.touch
        )
        _describe(report, place)
        if not options.touch:
            loader.warm_up(place.device.index)
        for file, expressions in catalogue.instances().items():
            cache.fetch(file, expressions, loader.target_for(place.device.index or 0))
        _correct(report, sections, place)
        if not (options.no_times or options.touch):
            _times(report, place)
    report.numbers["s in all"] = f"{time.perf_counter() - start:.1f}"
    report.print()
    if options.json:
        report.write(options.json)
    return 0 if report.clean else 1


def _correct(report: Report, sections: dict[str, Section], place: Place) -> None:
    for name, section in sections.items():
        report.run(name, partial(section, place))
        print(f"... {name}", file=sys.stderr, flush=True)


def _describe(report: Report, place: Place) -> None:
    import cupy

    report.numbers["device"] = torch.cuda.get_device_name(place.device)
    report.numbers["torch"] = torch.__version__
    report.numbers["cupy"] = cupy.__version__
    report.numbers["driver"] = cupy.cuda.runtime.driverGetVersion()
    report.numbers["target"] = loader.target_for(place.device.index)


def _times(report: Report, place: Place) -> None:
    """Every group of numbers for itself; one that breaks leaves its error behind."""
    device, copied = place.device, times.bandwidth(place)
    report.numbers["TB/s copy"] = f"{copied / 1e12:.3f}"
    groups: dict[str, Callable[[], times.Numbers]] = {
        "memory": lambda: times.numbers(memory_bound(device, copied)),
        "routers": lambda: times.numbers(routers(device)),
        "product keys": lambda: times.numbers(product_keys(device)),
        "launches": lambda: times.numbers(launches(device)),
        "compiling": lambda: times.numbers(compiling(device)),
        "grouped GEMMs": lambda: gemm_times.grouped_gemms(place),
    }

    def measure(name: str) -> None:
        report.numbers.update(groups[name]())

    report.run("times", lambda: [(name, partial(measure, name)) for name in groups])


if __name__ == "__main__":
    sys.exit(main())
