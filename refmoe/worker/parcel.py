"""Problems and outcomes as frames: descriptions in JSON, tensors in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from oracle.numerics import Numerics
from oracle.params import Blocks, Params
from oracle.spec import BlockFormat, Layer
from oracle.trace import TAPS
from refmoe.parse import parse
from refmoe.problem import Problem, tensors
from refmoe.protocol import OPS
from refmoe.results import expected, violation
from refmoe.verdict import Outcome
from refmoe.worker.channel import Frame, Garbled, read, write
from refmoe.worker.codec import decoded, encoded

STATUS = ("ran", "refused", "unsupported", "missing", "crashed")
#: Characters of a log, and of all sentences together, that a frame has room for.
_LOG, _SENTENCES = 16_000, 8_000


def problem_frame(problem: Problem, file: int) -> Frame:
    """A problem whose tensors go into `file`."""
    given = {"params": problem.params, **problem.inputs}
    if problem.sample is not None:
        given["sample"] = problem.sample
    parts: dict[str, torch.Tensor] = {}
    tree = {name: _shed(value, name, parts) for name, value in given.items()}
    return {
        "case": str(problem.case),
        "layer": encoded(problem.layer),
        "numerics": encoded(problem.numerics),
        "tree": tree,
        "tensors": write(file, parts),
    }


def problem_of(frame: Frame, file: int) -> Problem:
    """The problem that `problem_frame` wrote."""
    parts = read(file, frame["tensors"])
    given = {name: _grown(value, parts) for name, value in frame["tree"].items()}
    return Problem(
        parse(frame["case"], largest=None),
        decoded(Layer, frame["layer"]),
        given.pop("params"),
        sample=given.pop("sample", None),
        inputs=given,
        numerics=decoded(Numerics, frame["numerics"]),
    )


def _shed(value: Any, name: str, parts: dict[str, torch.Tensor]) -> Any:
    """`value` with names in place of tensors, which go into `parts`."""
    if isinstance(value, torch.Tensor):
        parts[name] = value
        return {"tensor": name}
    if isinstance(value, BlockFormat):
        return {"format": encoded(value)}
    if isinstance(value, Blocks | Params):
        kind = type(value).__name__.lower()
        fields = {
            field.name: _shed(getattr(value, field.name), f"{name}.{field.name}", parts)
            for field in dataclasses.fields(value)
        }
        return {kind: fields}
    if isinstance(value, tuple):
        return {"tuple": [_shed(item, name, parts) for item in value]}
    if value is None or isinstance(value, int | float | str):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}, which cannot be sent to a worker; run in "
        "process"
    )


def _grown(value: Any, parts: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, item),) = value.items()
    if kind == "tensor":
        return parts[item]
    if kind == "format":
        return decoded(BlockFormat, item)
    if kind == "tuple":
        return tuple(_grown(part, parts) for part in item)
    owner: Any = {"blocks": Blocks, "params": Params}[kind]
    return owner(**{name: _grown(part, parts) for name, part in item.items()})


def outcome_frame(outcome: Outcome, file: int, at: int) -> tuple[Frame, int]:
    """An outcome whose tensors go into `file` from `at` on, and where they end."""
    outputs = {name: tensor.contiguous() for name, tensor in outcome.outputs.items()}
    taps = {name: tensor.contiguous() for name, tensor in outcome.taps.items()}
    frame = {
        "status": outcome.status,
        "outputs": write(file, outputs, at),
        "log": outcome.log[-_LOG:],
        "violations": _short(outcome.violations),
    }
    at += sum(tensor.nbytes for tensor in outputs.values())
    frame["taps"] = write(file, taps, at)
    return frame, at + sum(tensor.nbytes for tensor in taps.values())


def outcome_of(frame: Any, file: int) -> Outcome:
    """The outcome that `outcome_frame` wrote; raises Garbled if it is none."""
    if not isinstance(frame, dict) or frame.get("status") not in STATUS:
        raise Garbled(f"an outcome without a status: {str(frame)[:80]}")
    log, sentences = frame.get("log"), frame.get("violations")
    if not isinstance(sentences, list) or not isinstance(log, str):
        raise Garbled("an outcome without words")
    if not all(isinstance(text, str) for text in sentences):
        raise Garbled("an outcome whose words are no text")
    outputs, taps = read(file, frame["outputs"]), read(file, frame["taps"])
    return Outcome(frame["status"], outputs, taps, tuple(sentences), log)


def checked(outcome: Outcome, problem: Problem) -> Outcome:
    """The outcome with its results held against the contract once more.

    What a worker says of itself is not believed: the process that says so is the
    port's. It cannot vouch for the memory guards; all else is seen from here.
    """
    if outcome.status != "ran" or outcome.violations:
        return outcome
    want, op = expected(problem), OPS[problem.case.op]
    names = [field.name for field in op.results]
    found = [f"no tap is called {name!r}" for name in outcome.taps if name not in TAPS]
    found += [f"no result is called {n!r}" for n in outcome.outputs if n not in want]
    for name in names:
        got, item = outcome.outputs.get(name), want[name]
        if got is None:
            if name in names[: len(names) - op.optional]:
                found.append(f"the call returned no {name}")
            continue
        if item.judged is not None:
            shape = (len(item.judged), *item.shape[1:])
            item = dataclasses.replace(item, shape=shape, judged=None)
        sentence = violation(name, got, item)
        found += [sentence] if sentence else []
    return dataclasses.replace(outcome, violations=tuple(found))


def _short(sentences: tuple[str, ...]) -> list[str]:
    """As many sentences as there is room for, in a frame that must not grow."""
    found, room = [], _SENTENCES
    for text in sentences:
        if room <= 0:
            break
        found.append(text[:room])
        room -= len(text)
    return found


def inputs_of(problem: Problem) -> dict[str, torch.Tensor]:
    """Every tensor that the port is handed, by a dotted name."""
    found: dict[str, torch.Tensor] = {}
    for name, value in {"params": problem.params, **problem.inputs}.items():
        found |= tensors(value, name)
    return found
