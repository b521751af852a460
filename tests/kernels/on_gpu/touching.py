"""A few small cases for every kernel, for sanitizers, and the kernels they reached."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from on_gpu.judged import RIGHT, port_for
from on_gpu.launching import calls, some_inputs
from on_gpu.place import Place
from on_gpu.report import Check

from refmoe.kernels import catalogue, launch
from refmoe.plan import Cell, cases, cells
from refmoe.verdict import Kind
from refmoe.verify import Verifier

_MODELS = (
    "gpt-oss-120b", "deepseek-v3", "deepseek-v4-flash", "mixtral-8x7b",
    "qwen2-moe-a2.7b", "llama-4-scout",
)  # fmt: skip
_FORMATS = ("mxfp4", "nvfp4", "fp8_group_128", "fp8_tensor", "fp8_block_128")
#: Checks of a section that are taken, besides those whose names say so.
_TAKEN, _ALWAYS = 12, ("quotients", "rounded", "widened", "n=20 k=33 naive")


@dataclass(slots=True)
class _Recording:
    """Passes launches on and remembers the kernels."""

    inner: launch.Backend
    seen: set[tuple[str, str]] = field(default_factory=set)

    @property
    def kind(self) -> str:
        return self.inner.kind

    def target(self, device: torch.device) -> str:
        return self.inner.target(device)

    def run(
        self, kernel: launch.Kernel, grid: launch.Size, block: launch.Size,
        arguments: Sequence[Any], shared: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.seen.add((kernel.file, kernel.expression.split("<")[0]))
        self.inner.run(kernel, grid, block, arguments, shared, device)


def touching(
    sections: Mapping[str, Callable[[Place], Iterable[Check]]], place: Place
) -> Iterator[Check]:
    """A sample of each section, every op once through the judge, every launcher."""
    recording = _Recording(launch.current())
    chance = random.Random(0)

    def recorded(check: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with launch.through(recording):
                check()

        return run

    for section, listed in sections.items():
        checks = list(listed(place))
        taken = chance.sample(checks, min(_TAKEN, len(checks)))
        taken += [c for c in checks if c[0].startswith(_ALWAYS) and c not in taken]
        for name, check in taken:
            yield f"{section}: {name}", recorded(check)
    for name, call in calls(place, some_inputs(place, 0)).items():
        yield f"launcher: {name}", recorded(call)
    for name, check in _judged(place):
        yield f"judge: {name}", recorded(check)

    def all_reached() -> None:
        every = {
            (file, expression.split("<")[0])
            for file, expressions in catalogue.instances().items()
            for expression in expressions
        }
        left = sorted(every - recording.seen)
        assert not left, f"kernels that no case reached: {left}"

    if place.device.type == "cuda":
        # The emulated port chooses its backend itself.
        yield "every kernel", all_reached


def _judged(place: Place) -> Iterator[Check]:
    port, verifier = port_for(place), Verifier()

    def run(cell: Cell) -> None:
        (case,) = cases(cell, 1)
        record = verifier.check(port, case, cell)
        right = (*RIGHT, Kind.UNSUPPORTED)
        assert record.kind in right, f"{record.kind}: {case}; {record.log[-300:]}"

    for cell in cells(tuple(port.ops), _MODELS, _FORMATS, ("randn",)):
        if not cell.profile:
            yield f"{cell.op} {cell.subject}", lambda c=cell: run(c)
