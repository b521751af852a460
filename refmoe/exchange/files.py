"""A problem as a safetensors file, and an implementation's answer as another.

``NAME.safetensors`` holds every tensor that the op gets, by name: ``x``, ``logits``,
``params.gate_up`` or, of blocks, ``params.gate_up.codes``, ``.scales``,
``.global_scale``. Its metadata (texts) say the rest: ``case``, ``op``, ``layer`` and
``arguments`` (JSON: numbers, block formats) and ``results`` (JSON: shape and types).
The answer, ``NAME.out.safetensors``, holds each result by its name, and any stages
under the names of their taps. No expected value is written anywhere.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oracle.spec import BlockFormat
from oracle.trace import TAPS
from refmoe.case import Case
from refmoe.problem import Problem, build, tensors
from refmoe.protocol import OPS
from refmoe.results import PLAIN, as_bytes, expected, violation
from refmoe.verdict import Outcome

#: Version of the layout of these files.
VERSION = "1"
_ANSWER = ".out.safetensors"


def write(case: Case, folder: Path, name: str) -> Path:
    """Write the case's problem as ``folder/name.safetensors`` and return that path.

    Raises ValueError if the case cannot be built, FileExistsError if the file is there,
    OSError if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    problem = build(case)
    path = folder / f"{name}.safetensors"
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder")
    found = {
        key: tensor.contiguous()
        for argument, value in arguments(problem).items()
        for key, tensor in tensors(value, argument).items()
        if not tensor.is_meta
    }
    try:
        save_file(found, path, metadata=_metadata(problem))
    except SafetensorError as error:
        told = f"{path} cannot be written; choose another folder: {error}"
        raise OSError(told) from None
    return path


def arguments(problem: Problem) -> dict[str, Any]:
    """Every argument of the op by name, params included, the layer not."""
    given = {"params": problem.params, **problem.inputs}
    names = [field.name for field in OPS[problem.case.op].arguments]
    if "top_k" in names:
        given["top_k"] = problem.layer.top_k
    wanted = {*names, *problem.inputs}
    return {name: value for name, value in given.items() if name in wanted}


def _metadata(problem: Problem) -> dict[str, str]:
    plain = {
        name: dataclasses.asdict(value) if isinstance(value, BlockFormat) else value
        for name, value in arguments(problem).items()
        if isinstance(value, BlockFormat | int | float | str)
    }
    results = {
        name: {
            "shape": list(item.shape),
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in item.dtypes],
        }
        for name, item in expected(problem).items()
    }
    return {
        "refmoe": VERSION,
        "case": str(problem.case),
        "op": problem.case.op,
        "layer": json.dumps(dataclasses.asdict(problem.layer)),
        "arguments": json.dumps(plain),
        "results": json.dumps(results),
    }


def problems(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every problem's file in `folder` with its case line, in the order of names.

    Raises ValueError for a folder without any, or a file that `write` did not make.
    """
    from safetensors import safe_open

    found = [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if not path.name.endswith(_ANSWER)
    ]
    if not found:
        raise ValueError(f"{folder} holds no problems; write some with refmoe gen")
    for path in found:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("refmoe") != VERSION:
            version = metadata.get("refmoe", "no")
            raise ValueError(
                f"{path} has {version} version of these files; this refmoe reads "
                f"version {VERSION}: write the problems again with refmoe gen"
            )
        yield path, metadata["case"]


def answer(path: Path) -> Path:
    """Where the answer to the problem at `path` is looked for."""
    return path.with_name(path.name.removesuffix(".safetensors") + _ANSWER)


def read(path: Path, problem: Problem) -> Outcome:
    """The answer at `path` as an Outcome: missing, or ran with its violations."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        return Outcome("missing", log=f"there is no {path.name}")
    try:
        found = load_file(path)
    except SafetensorError as error:
        return Outcome("crashed", log=f"{path.name} is no safetensors file: {error}")
    op, want = OPS[problem.case.op], expected(problem)
    outputs, taps, violations = {}, {}, []
    for name, tensor in found.items():
        if name in want:
            sentence = violation(name, tensor, want[name])
            if sentence is None:
                outputs[name] = as_bytes(tensor)
            else:
                violations.append(sentence)
        elif name in TAPS and type(tensor) in PLAIN:
            taps[name] = as_bytes(tensor)
        else:
            known = ", ".join([*want, *TAPS])
            violations.append(f"{path.name} holds {name!r}, which is none of {known}")
    needed = [field.name for field in op.results][: len(op.results) - op.optional]
    violations += [f"{path.name} has no {name}" for name in needed if name not in found]
    return Outcome("ran", outputs, taps, tuple(violations))
