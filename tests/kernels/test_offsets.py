"""Offsets into tensors are wide: narrowed to 16 bits, kernels are wrong past 2^16."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from refmoe.kernels import catalogue, emulator, source
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.verdict import Kind
from refmoe.verify import Verifier

RIGHT = (Kind.BIT_EQUAL, Kind.WITHIN, Kind.AMBIGUOUS)


@pytest.fixture(params=["u64", "u16"])
def offset(
    request: pytest.FixtureRequest, host_compiler: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The type of offsets that kernels are compiled with, one instance at a time."""
    text = (source.ROOM / "types.cuh").read_text()
    assert text.count("using Offset = u64;") == 1
    text = text.replace("using Offset = u64;", f"using Offset = {request.param};")
    monkeypatch.setattr(catalogue, "instances", dict)
    emulator._entry.cache_clear()
    with source.replaced({"types.cuh": text}):
        yield request.param
    emulator._entry.cache_clear()


@pytest.mark.parametrize(
    "line",
    [
        # 80 rows of 1024 columns; x of 2200 rows of 32; gate and up of 45 x 2 rows.
        "grouped_gemm T=40 H=32 I=512 E=2 k=2 tactic=naive",
        "grouped_gemm T=40 H=32 I=512 E=2 k=2 tactic=mma_medium",
        "grouped_gemm T=1100 H=32 I=8 E=2 k=2 tactic=mma_medium",
        "activate T=45 I=512 E=2 k=2",
    ],
)
def test_offsets_are_as_wide_as_tensors_are_long(line: str, offset: str) -> None:
    """Catches a product of 32-bit numbers where both sides have 64."""
    record = Verifier().check(load("refmoe.kernels.emulated"), parse(f"{line} seed=1"))
    if offset == "u64":
        assert record.kind in RIGHT, record.log
    else:
        assert record.kind is Kind.WRONG, record.log
