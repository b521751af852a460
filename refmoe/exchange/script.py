"""A case as one Python file that needs torch and the port only."""

from __future__ import annotations

import base64
import dataclasses
import pprint
import zlib
from pathlib import Path
from typing import Any

import torch

from oracle import bounds
from oracle.params import Blocks, Params
from oracle.trace import Tap
from refmoe import reference
from refmoe.exchange.files import arguments
from refmoe.problem import Problem
from refmoe.protocol import OPS
from refmoe.regimes.regime import TORCH
from refmoe.results import expected

#: Most bytes of tensors that are written into a script.
LARGEST = 1 << 22
_NAMES = {dtype: name for name, dtype in TORCH.items()}
#: Ops whose results may come in more than one order.
_FREE_ORDER = {
    "route": "chosen experts may come in any order; here they are wanted in the "
    "oracle's",
    "permute": "rows of one expert may come in any order; here they are wanted stable",
}


def script(problem: Problem, port: str) -> str:
    """The text of a file that runs `problem` on `port` and prints what lies outside.

    `problem.layer` and `problem.numerics` are those that the port declares.

    Raises ValueError where the tensors are too large to be written down.
    """
    given = arguments(problem)
    size = sum(
        len(_raw(tensor)) for value in given.values() for tensor in _tensors(value)
    )
    if size > LARGEST:
        raise ValueError(
            f"script: the case's tensors have {size} bytes; the limit is {LARGEST}: "
            "give a smaller case"
        )
    op = OPS[problem.case.op]
    given["layer"] = problem.layer
    names = [field.name for field in op.arguments]
    names += [name for name in op.keywords if name in given]
    record = {
        "case": str(problem.case),
        "op": op.function,
        "port": port,
        "arguments": {name: _encoded(given[name]) for name in names},
        "keywords": list(op.keywords),
        "notes": _notes(problem),
        "results": _wanted(problem),
    }
    source = Path(__file__).with_name("standalone.py").read_text()
    body = source.split('"""', 2)[2].strip()
    head = (
        f'"""{problem.case}\n\nRun: python FILE [package.module or '
        'package.module:object]. It needs torch and that port.\n"""\n\n'
    )
    text = pprint.pformat(record, width=100, compact=True, sort_dicts=False)
    return (
        f"{head}{body}\n\n\nPROBLEM = {text}\n\n"
        'if __name__ == "__main__":\n    raise SystemExit(main(PROBLEM))\n'
    )


def _notes(problem: Problem) -> list[str]:
    notes = [_FREE_ORDER[problem.case.op]] if problem.case.op in _FREE_ORDER else []
    if problem.case.op == "moe":
        admissible = reference.trace(problem)["ids"].admissible
        open_ = 0 if admissible is None else int(admissible.ambiguous.sum())
        if open_:
            notes.append(f"{open_} tokens have near-tied experts and are not compared")
    return notes


def _wanted(problem: Problem) -> dict[str, Any]:
    """What may come, by result: value and reach, or the bytes themselves."""
    trace, wanted = reference.trace(problem), {}
    for name, item in expected(problem).items():
        if name not in trace:
            continue
        tap = trace[name]
        buffer = str(item.dtypes[0]).removeprefix("torch.")
        entry: dict[str, Any] = {"shape": list(item.shape), "buffer": buffer}
        if tap.value.is_floating_point():
            tap = bounds.rounded(_double(tap), _NAMES[item.dtypes[0]], problem.numerics)
            worst = torch.zeros_like(tap.value) if tap.worst is None else tap.worst
            worst = worst.expand_as(tap.value).clone()
            admissible = trace["ids"].admissible if name == "out" else None
            if admissible is not None:
                worst[admissible.ambiguous] = torch.inf
            entry["worst"] = _encoded(worst)
        wanted[name] = {**entry, "value": _encoded(tap.value)}
    return wanted


def _double(tap: Tap) -> Tap:
    return dataclasses.replace(tap, value=tap.value.double())


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [] if value.is_meta else [value]
    if isinstance(value, Blocks | Params):
        parts = (getattr(value, field.name) for field in dataclasses.fields(value))
        return [tensor for part in parts for tensor in _tensors(part)]
    return []


def _raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().tobytes()


def _encoded(value: Any) -> Any:
    """A value as literals: what `standalone.decoded` reads."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            return None
        return {
            "tensor": base64.b85encode(zlib.compress(_raw(value), 9)),
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
        }
    if isinstance(value, tuple):
        return tuple(_encoded(item) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    kind = type(value)
    names = [field.name for field in dataclasses.fields(value)]
    derived = [key for key, item in vars(kind).items() if isinstance(item, property)]
    return {
        "type": f"{kind.__module__}.{kind.__name__}",
        "fields": {name: _encoded(getattr(value, name)) for name in names},
        "derived": {name: _derived(value, name) for name in derived},
    }


def _derived(value: Any, name: str) -> Any:
    found = getattr(value, name)
    return tuple(found) if isinstance(found, torch.Size) else _encoded(found)
