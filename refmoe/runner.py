"""Runs one problem on one port, in this process: Problem -> Outcome."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from oracle.params import Blocks
from oracle.trace import TAPS
from refmoe.compare import unravel
from refmoe.port import Port, accepts
from refmoe.problem import Problem, move, overwrite, tensors
from refmoe.protocol import OPS, Op, suggestion
from refmoe.results import PLAIN, Expected, as_bytes, expected, violation
from refmoe.verdict import Outcome

#: Low and high bytes of the elements that buffers for results are filled with: NaN in
#: every float type, with a payload of its own, since torch's bf16 NaN is all ones.
POISON = (0xA5, 0xFF)


def run(
    port: Port,
    problem: Problem,
    tactic: Any = None,
    *,
    memory: dict[str, Any] | None = None,
) -> Outcome:
    """Call the port's op on fresh copies of the problem's tensors; check the contract.

    A ValueError or NotImplementedError that gives a reason is a refusal; any other
    exception is a crash. Arguments are compared with their originals afterwards, bit by
    bit; an `out=` buffer comes poisoned; shapes and types of the results are checked.
    `tactic` is one of those that the port offers, passed on where the op takes one.
    `memory` keeps the tensors by argument; what fits into those of an earlier call is
    copied there, to the same addresses.
    """
    case = problem.case
    function = port.ops.get(case.op)
    if function is None:
        return Outcome("missing")
    device = port.device
    op, want = OPS[case.op], expected(problem)
    given = {"params": problem.params, **problem.inputs}
    copies = {name: move(value, device) for name, value in given.items()}
    if memory is not None:
        copies = {name: overwrite(memory.get(name), copies[name]) for name in copies}
        memory.update(copies)
    exposed: dict[str, Any] = {}
    buffers = _buffers(function, want, device)
    try:
        reason = port.unsupported(case)
        if reason is not None:
            return Outcome("unsupported", log=reason)
        with torch.no_grad():
            result = _call(
                port, op, function, copies, problem, exposed, buffers, tactic
            )
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
    except (ValueError, NotImplementedError) as error:
        if str(error).strip():
            return Outcome("refused", log=f"{type(error).__name__}: {error}")
        return Outcome("crashed", log=_traceback(error))
    except (Exception, SystemExit) as error:
        return Outcome("crashed", log=_traceback(error))
    if result is None and buffers:
        result = tuple(buffers.values())
    outputs, violations = _results(op, result, want)
    violations += _poison_left(outputs, buffers)
    violations += _changed(port, given, copies)
    taps, unknown = _taps(exposed)
    return Outcome("ran", outputs, taps, tuple(violations + unknown))


def _call(
    port: Port,
    op: Op,
    function: Callable[..., Any],
    copies: Mapping[str, Any],
    problem: Problem,
    exposed: dict[str, Any],
    buffers: Mapping[str, torch.Tensor],
    tactic: Any,
) -> Any:
    offered: dict[str, Any] = {"layer": problem.layer, "top_k": problem.layer.top_k}
    offered |= copies
    keywords = {name: offered[name] for name in op.keywords if name in offered}
    if "prepared" in op.keywords and accepts(function, "prepared"):
        prepare = port.get("prepare")
        keywords["prepared"] = (
            prepare(move(problem.params, port.device), problem.layer)
            if prepare
            else None
        )
    if tactic is not None:
        keywords["tactic"] = tactic
    if accepts(function, "taps") and problem.sample is None:
        keywords["taps"] = exposed
    if buffers:
        keywords["out"] = (
            next(iter(buffers.values()))
            if len(buffers) == 1
            else tuple(buffers.values())
        )
    keywords = {
        name: value for name, value in keywords.items() if accepts(function, name)
    }
    return function(*(offered[field.name] for field in op.arguments), **keywords)


def _buffers(
    function: Callable[..., Any], want: Mapping[str, Expected], device: str
) -> dict[str, torch.Tensor]:
    """Poisoned buffers for each result, if the function takes `out`."""
    if not accepts(function, "out"):
        return {}
    return {
        name: _poisoned(item.shape, item.dtypes[0], device)
        for name, item in want.items()
    }


def _poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
    return _poison(dtype).to(device).repeat(*shape, 1).view(dtype).reshape(shape)


def _poison(dtype: torch.dtype) -> torch.Tensor:
    """The bytes of one poisoned element, little end first."""
    size = dtype.itemsize
    high = 2 if size == 8 else 1
    low, top = POISON
    return torch.tensor([low] * (size - high) + [top] * high, dtype=torch.uint8)


def _results(
    op: Op, result: Any, want: Mapping[str, Expected]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Results by tap on the CPU, and what is wrong with their number, shape or type."""
    if isinstance(result, Blocks):
        parts = (result.codes, result.scales, result.global_scale)
        result = tuple(part for part in parts if part is not None)
    if isinstance(result, torch.Tensor) or result is None:
        result = (result,)
    names = [field.name for field in op.results]
    least = len(names) - op.optional
    if not isinstance(result, tuple | list) or not least <= len(result) <= len(names):
        count = (
            f"{len(result)} values" if isinstance(result, tuple | list) else "a value"
        )
        return {}, [
            f"{op.name} returned {count} ({type(result).__name__}); "
            f"return {', '.join(names)}"
        ]
    outputs: dict[str, torch.Tensor] = {}
    violations = []
    for name, got in zip(names, result, strict=False):
        sentence = violation(name, got, want[name])
        if sentence is None:
            outputs[name] = as_bytes(want[name].of(got.detach())).cpu()
        else:
            violations.append(sentence)
    return outputs, violations


def _poison_left(
    outputs: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor]
) -> list[str]:
    found = []
    for name in buffers:
        got = outputs.get(name)
        if got is None or not got.is_floating_point():
            continue
        poison = _poison(got.dtype)
        left = (_bytes(got).reshape(*got.shape, len(poison)) == poison).all(-1)
        if bool(left.any()):
            index = [int(part) for part in left.nonzero()[0]]
            found.append(
                f"{int(left.sum())} elements of {name} were never written, first "
                f"{index}: the buffer's poison is still there"
            )
    return found


def _changed(
    port: Port, given: Mapping[str, Any], copies: Mapping[str, Any]
) -> list[str]:
    """Arguments whose bits differ after the call, unless declared in `mutates`."""
    found = []
    for argument, value in given.items():
        if argument in port.get("mutates", ()):
            continue
        after = tensors(copies[argument], argument)
        for name, tensor in tensors(value, argument).items():
            if tensor.device.type == "meta":
                continue
            differs = _bytes(after[name].cpu()) != _bytes(tensor)
            if bool(differs.any()):
                element = int(differs.nonzero()[0]) // tensor.dtype.itemsize
                index = list(unravel(element, tensor.shape))
                found.append(
                    f"the call changed its argument {name} at {index}; declare "
                    f"mutates=({argument!r},) if that is meant"
                )
    return found


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _taps(exposed: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    taps, violations = {}, []
    for name, tensor in exposed.items():
        if name not in TAPS:
            violations.append(f"no tap is called {name!r}; {suggestion(name, TAPS)}")
        elif type(tensor) not in PLAIN:
            violations.append(
                f"tap {name} is a {type(tensor).__name__}; expose a plain torch.Tensor"
            )
        else:
            taps[name] = as_bytes(tensor.detach()).cpu()
    return taps, violations


def _traceback(error: BaseException) -> str:
    """The traceback from the port's own frames on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
