"""The first files of an author's own: a port of ten lines and a test of three."""

from __future__ import annotations

from pathlib import Path

_PORT = '''"""What refmoe judges: the whole layer; refmoe/protocol.py lists every op."""

import refmoe

numerics = refmoe.Numerics(accumulate="fp32", intermediate="bf16")


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

    Raises ValueError for a name that cannot be imported, FileExistsError rather than
    write over a file.
    """
    if not name.isidentifier():
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
    for path, text in files.items():
        path.write_text(text)
    return list(files)
