"""The project's own judge on the port, over its plan of cases."""

from __future__ import annotations

from collections.abc import Iterator

from on_gpu.place import Place
from on_gpu.report import Check

from refmoe.loading import load
from refmoe.plan import cases, cells
from refmoe.port import Port
from refmoe.verdict import Kind
from refmoe.verify import Verifier

RIGHT = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)
_MODELS = ("gpt-oss-120b", "deepseek-v3", "deepseek-v4-flash", "mixtral-8x7b")
_FORMATS = ("mxfp4", "mxfp8_e4m3", "mxfp8_e5m2", "nvfp4", "fp8_group_128", "int8_token")
_REGIMES = ("randn", "exact", "heavy")


def port_for(place: Place) -> Port:
    """Our kernels, on a GPU or in the emulator."""
    emulated = place.device.type == "cpu"
    return load("refmoe.kernels.emulated" if emulated else "refmoe.kernels")


def judging(place: Place) -> Iterator[Check]:
    """One check per op, subject and regime."""
    port, verifier = port_for(place), Verifier()

    def run(cell: object) -> None:
        for case in cases(cell, 8 if place.large else 2):  # type: ignore[arg-type]
            case = case.but(memory="contiguous")
            record = verifier.check(port, case, cell)  # type: ignore[arg-type]
            assert record.kind in RIGHT, f"{record.kind}: {case}; {record.log[-300:]}"

    for cell in cells(tuple(port.ops), _MODELS, _FORMATS, _REGIMES):
        yield f"{cell.op} {cell.subject} {cell.regime}", lambda c=cell: run(c)
