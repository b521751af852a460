"""Every kernel instance compiles for every architecture, without spill or warning."""

from __future__ import annotations

import re

import pytest

from refmoe.kernels import cache, catalogue, compiler, emulator
from refmoe.kernels.source import ROOM, expand

pytestmark = pytest.mark.usefixtures("nvrtc")

FILES = tuple(catalogue.instances())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("target", compiler.ARCHITECTURES)
def test_compile_every_instance(target: str, file: str) -> None:
    expressions = catalogue.instances()[file]
    _, image = cache.fetch(file, expressions, target)
    assert image.warnings == ()
    assert set(image.usage) == set(expressions)
    # The long way of a division is a call: a register may wait on the stack.
    spilled = {
        name: usage
        for name, usage in image.usage.items()
        if usage.spill_stores > (8 if "kDivided" in name else 0)
    }
    assert spilled == {}


def test_compile_covers_every_file() -> None:
    assert set(FILES) == {path.name for path in ROOM.glob("*.cu")}


@pytest.mark.parametrize("file", FILES)
def test_compile_portable_code_keeps_denormals(file: str) -> None:
    """Portable PTX: nothing flushes but the heart of the compiler's own expf."""
    first = catalogue.instances()[file][0]
    ptx = compiler.compile_file(file, (first,), "compute_80").code.decode()
    assert set(re.findall(r"\S*(?:ftz|approx)\S*", ptx)) <= {
        "ex2.approx.ftz.f32",
        "rcp.approx.ftz.f32",
    }


@pytest.mark.parametrize("file", FILES)
def test_compile_lines_stay_within_the_page(file: str) -> None:
    lines = expand(file).splitlines()
    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("file", FILES)
def test_compile_for_the_emulator(file: str, host_compiler: str) -> None:
    instances = catalogue.instances()[file]
    library = emulator.build(file, instances)
    assert hasattr(library, f"entry_{len(instances) - 1}")
