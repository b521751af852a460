"""The judge on the code of older GPUs, which the driver translates for this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from on_gpu.judged import RIGHT, port_for
from on_gpu.place import Place
from on_gpu.report import Check

from refmoe.case import Case
from refmoe.kernels import cache, launch, loader
from refmoe.kernels.driver import Cuda
from refmoe.parse import parse
from refmoe.plan import cases, cells
from refmoe.port import Port
from refmoe.verify import Verifier

_ARCHS = ("sm_80", "sm_89")
_FORMATS = ("mxfp8_e4m3", "nvfp4", "fp8_group_128")
#: Units that the models of `_chosen` leave idle.
_MORE = (
    "experts T=17 H=96 I=160 E=4 k=2 weights=int8_channel activations=int8_token "
    "requantize=int8_token seed=1 tactic=mma_medium",
    "experts T=17 H=96 I=160 E=4 k=2 dtype=fp16 weights=fp16 activations=fp16 "
    "requantize=fp16 regime=exact seed=1 tactic=mma_medium",
)


@dataclass(slots=True)
class _Noting:
    """Hands launches on, and notes whose they are."""

    inner: Cuda = field(default_factory=Cuda)
    kind: str = "cuda"
    kernels: set[tuple[str, str]] = field(default_factory=set)
    #: What the launches since this was cleared were compiled for.
    targets: set[str] = field(default_factory=set)

    def target(self, device: torch.device) -> str:
        return self.inner.target(device)

    def run(self, kernel: launch.Kernel, *rest: Any) -> None:
        self.kernels.add((kernel.file, kernel.expression))
        self.targets.add(loader.target_for(torch.cuda.current_device()))
        self.inner.run(kernel, *rest)

    def compile(self, arch: str) -> None:
        """Everything noted, side by side, into the disk cache."""
        with ThreadPoolExecutor() as pool:
            for made in [
                pool.submit(cache.fetch, file, (expression,), _target(arch))
                for file, expression in sorted(self.kernels)
            ]:
                made.result()


def judging(place: Place) -> Iterator[Check]:
    """A case of each op and subject with every tactic: here, then as on older GPUs."""
    port, verifier = port_for(place), Verifier()
    emulated = place.device.type == "cpu"
    noting = _Noting()

    def run(case: Case, arch: str | None) -> None:
        noting.targets.clear()
        with nullcontext() if emulated else launch.through(noting):
            record = verifier.check(port, case.but(arch=arch))
        assert record.kind in RIGHT, f"{record.kind}: {case}; {record.log[-300:]}"
        if arch is not None:
            assert f"arch={arch}" in record.case, record.case
            assert emulated or noting.targets == {_target(arch)}, noting.targets

    chosen = _chosen(port)
    if not emulated:
        for case in chosen:
            yield f"{_name(case)} here", lambda c=case: run(c, None)
    for arch in _ARCHS:
        if not emulated:
            yield f"compiling for {arch}", lambda a=arch: noting.compile(a)
        for case in chosen:
            yield f"{_name(case)} {arch}", lambda c=case, a=arch: run(c, a)


def _target(arch: str) -> str:
    return arch.replace("sm_", "compute_")


def _chosen(port: Port) -> Sequence[Case]:
    """A case of 17 tokens for each op and subject, the whole layer with FP8 and FP4."""
    ops = tuple(port.ops)
    grid = cells(ops, ("gpt-oss-120b",), _FORMATS, ("randn",))
    grid += cells(("route", "activate", "moe"), ("deepseek-v4-flash",), (), ("randn",))
    found = [list(cases(cell, 2))[1] for cell in grid if not cell.profile]
    return [*found, *(parse(line) for line in _MORE)]


def _name(case: Case) -> str:
    return f"{case.op} {case.model or case.format or case.dtype or case.weights or '-'}"
