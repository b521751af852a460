"""The first files of an author's own: a port of ten lines and a test of three."""

from __future__ import annotations

from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

_PORT = '''"""What refmoe judges; `refmoe names` lists what else a port may have."""

import refmoe

numerics = refmoe.Numerics(accumulate="fp32", intermediate="bf16")


# supports = refmoe.Supports(models=("mixtral-8x7b",), dtypes=("bf16",))


def prepare(params, layer):  # once per weights: repack, quantise; optional
    return params.gate_up, params.down


def moe(x, logits, params, layer, *, prepared):  # bf16[T, H], f32[T, E] -> bf16[T, H]
    raise NotImplementedError("call your kernel here")
'''
_TEST = """from refmoe.conformance import Suite

test_{name} = Suite("{name}")
"""


def start(name: str, folder: Path) -> list[Path]:
    """Write ``NAME.py`` and ``test_NAME.py`` into `folder`; return their paths.

    Raises ValueError for a name that cannot be imported or is another module's,
    FileExistsError rather than write over a file.
    """
    if not name.isidentifier() or iskeyword(name):
        raise ValueError(
            f"init: {name!r} is no module's name; use letters, digits and underscores"
        )
    files = {
        folder / f"{name}.py": _PORT,
        folder / f"test_{name}.py": _TEST.format(name=name),
    }
    for path in files:
        if path.exists():
            raise FileExistsError(f"{path} exists; choose another name")
    if find_spec(name) is not None:
        raise ValueError(
            f"init: {name!r} is a module already, which yours would hide; choose "
            "another name"
        )
    for path, text in files.items():
        path.write_text(text)
    return list(files)
