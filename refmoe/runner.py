"""Runs one problem on one port, in this process: Problem -> Outcome."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from oracle.params import Blocks
from oracle.trace import TAPS
from refmoe.arrangement import (
    arranged_problem,
    expected_as,
    layouts_of,
    objection,
    restored,
)
from refmoe.case import Case
from refmoe.graph import replayed
from refmoe.guard import Guards, Launch
from refmoe.port import Port, accepts
from refmoe.problem import Problem, move
from refmoe.protocol import OPS, Op, suggestion
from refmoe.results import PLAIN, Expected, as_bytes, expected, violation
from refmoe.verdict import Outcome


def run(
    port: Port,
    problem: Problem,
    tactic: Any = None,
    *,
    memory: dict[str, Any] | None = None,
    captured: Problem | None = None,
    guards: Guards | None = None,
) -> Outcome:
    """Call the port's op on fresh copies of the problem's tensors, guarded.

    A ValueError or NotImplementedError that gives a reason is a refusal; any other
    exception is a crash. Shapes, types and places of the results are checked, and what
    the call did to memory (`refmoe.guard`). `tactic` is one of those that the port
    offers, passed on where the op takes one.
    `memory` keeps the tensors: a call of the same shapes finds its own at the same
    addresses. `captured` is a problem of those shapes: the call is captured on it in a
    CUDA graph, which is then replayed on `problem`. `guards` is what a process keeps
    from one call to the next.
    """
    case = problem.case
    function = port.ops.get(case.op)
    if function is None:
        return Outcome("missing")
    op, want = OPS[case.op], expected(problem)
    try:
        reason = port.unsupported(case)
        if reason is not None:
            return Outcome("unsupported", log=reason)
        scratch = _workspace(port, function, case)
    except (Exception, SystemExit) as error:
        return _failed(error)
    layouts = layouts_of(port.get("layouts", {}), problem)
    reason = objection(layouts, problem, want)
    if reason:
        return Outcome("unsupported", log=reason)
    problem = arranged_problem(problem, layouts)
    own = {name: expected_as(item, name, layouts) for name, item in want.items()}
    wanted = own if accepts(function, "out") else {}
    kept = {} if memory is None else memory

    def placed(held: Problem) -> Launch:
        """The problem's tensors, in the place of those that were there before."""
        given = {"params": held.params, **held.inputs}
        before = kept.get("launch")
        launch = Launch(given, {**wanted, **scratch}, port.device, case.seed, before)
        kept["launch"] = launch
        return launch

    held = problem if captured is None else arranged_problem(captured, layouts)
    launch = placed(held)
    exposed: dict[str, Any] = {}
    try:
        with torch.no_grad(), _code_for(port, case.arch):
            call = _bound(port, op, function, held, launch, exposed, tactic)
            if captured is None:
                with launch.entered():
                    result = call()
                    if port.device.startswith("cuda"):
                        torch.cuda.synchronize(port.device)
            else:
                result = replayed(call, lambda: placed(problem), port.device)
                launch = kept["launch"]
    except (Exception, SystemExit) as error:
        return _failed(error)
    buffers = {name: launch.buffers[name] for name in wanted}
    if result is None and buffers:
        result = tuple(buffers.values())
    outputs, violations = _results(op, result, own, port.device)
    left = (launch.unwritten(key, got) for key, got in outputs.items())
    violations += [sentence for sentence in left if sentence]
    violations += launch.violations(tuple(port.get("mutates", ())))
    outputs = {
        name: want[name].of(restored(got, want[name], name, layouts))
        for name, got in outputs.items()
    }
    taps, unknown = _taps(exposed)
    if guards is not None and memory is None:
        guards.leave(launch)
    return Outcome("ran", outputs, taps, tuple(violations + unknown))


def _bound(
    port: Port,
    op: Op,
    function: Callable[..., Any],
    problem: Problem,
    launch: Launch,
    exposed: dict[str, Any],
    tactic: Any,
) -> Callable[[], Any]:
    """The call with its arguments, those alone that the function has."""
    offered: dict[str, Any] = {"layer": problem.layer, "top_k": problem.layer.top_k}
    offered |= launch.arguments
    keywords = {name: offered[name] for name in op.keywords if name in offered}
    if "prepared" in op.keywords and accepts(function, "prepared"):
        prepare = port.get("prepare")
        keywords["prepared"] = (
            prepare(move(problem.params, port.device), problem.layer)
            if prepare
            else None
        )
    if problem.sample is None:
        keywords["taps"] = exposed
    keywords |= {"tactic": tactic} if tactic is not None else {}
    buffers = dict(launch.buffers)
    if "workspace" in buffers:
        keywords["workspace"] = buffers.pop("workspace")
    if buffers:
        outs = tuple(buffers.values())
        keywords["out"] = outs[0] if len(outs) == 1 else outs
    arguments = [offered[field.name] for field in op.arguments]
    keywords = {key: item for key, item in keywords.items() if accepts(function, key)}
    return partial(function, *arguments, **keywords)


def _code_for(port: Port, arch: str | None) -> AbstractContextManager[Any]:
    """Where the port runs the code of the case's architecture, if it names one."""
    enter = None if arch is None else port.get("on_arch")
    return nullcontext() if enter is None else enter(arch)


def _workspace(
    port: Port, function: Callable[..., Any], case: Case
) -> dict[str, Expected]:
    """The scratch memory that the port asks for: bytes, or a shape and a type."""
    ask = port.get("workspace")
    if ask is None or not accepts(function, "workspace"):
        return {}
    answer = ask(case)
    if isinstance(answer, int) and not isinstance(answer, bool) and answer >= 0:
        return {"workspace": Expected((answer,), (torch.uint8,))}
    if isinstance(answer, tuple) and len(answer) == 2:
        shape, dtype = answer
        if isinstance(shape, tuple | list) and isinstance(dtype, torch.dtype):
            return {"workspace": Expected(tuple(shape), (dtype,))}
    raise TypeError(
        f"port {port.name!r}: workspace(case) returned {answer!r}; return a number of "
        "bytes, or a shape and a torch.dtype"
    )


def _failed(error: BaseException) -> Outcome:
    """A refusal, if the exception is one and says why; else a crash."""
    if isinstance(error, ValueError | NotImplementedError) and str(error).strip():
        return Outcome("refused", log=f"{type(error).__name__}: {error}")
    return Outcome("crashed", log=_traceback(error))


def _results(
    op: Op, result: Any, want: Mapping[str, Expected], device: str
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Copies of the results by tap on the CPU, and what breaks the contract."""
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
        sentence = violation(name, got, want[name]) or _elsewhere(name, got, device)
        if sentence is None:
            outputs[name] = _copy(got.detach())
        else:
            violations.append(sentence)
    return outputs, violations


def _elsewhere(name: str, got: torch.Tensor, device: str) -> str | None:
    """The sentence about a result that is not in the port's memory as plain numbers."""
    if got.device.type != torch.device(device).type:
        return f"{name} is on {got.device}; return it on {device}"
    if got.layout is not torch.strided:
        return f"{name} is {str(got.layout).removeprefix('torch.')}; return it dense"
    return None


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU that shares nothing with the port."""
    return as_bytes(tensor.resolve_neg()).to("cpu", copy=True)


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
            taps[name] = _copy(tensor.detach())
    return taps, violations


def _traceback(error: BaseException) -> str:
    """The traceback from the port's own frames on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()
