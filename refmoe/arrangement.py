"""Tensors as a port wants or returns them: the layouts that it declares.

`layouts` of a port maps names to layouts of `oracle.layouts`: results by their name
(``"scales": "scales_128x4"``), arguments by the path of the tensor
(``"params.gate_up.codes": "nibbles_low_first"``). Arguments are arranged before a call,
results brought back after it, so the judge sees canonical tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from oracle.layouts import Layout, get
from oracle.params import Blocks, Params
from refmoe.problem import Problem, tensors
from refmoe.results import Expected

Layouts = Mapping[str, str]


def objection(layouts: Layouts, problem: Problem, want: Mapping[str, Expected]) -> str:
    """Why a declared layout does not fit the problem's shapes; empty if all do."""
    shapes = {name: item.shape for name, item in want.items()}
    for argument, value in {"params": problem.params, **problem.inputs}.items():
        for name, tensor in tensors(value, argument).items():
            shapes[name] = tuple(tensor.shape)
    for name in layouts:
        if name not in shapes:
            continue
        layout, shape = get(layouts[name]), shapes[name]
        if len(shape) < 2 or any(
            size % step for size, step in zip(shape[-2:], layout.multiple, strict=True)
        ):
            return (
                f"{name} is {list(shape)}; its layout {layout.name} needs rows and "
                f"columns in multiples of {layout.multiple}"
            )
    return ""


def arranged_problem(problem: Problem, layouts: Layouts) -> Problem:
    """The problem with its arguments in the port's layouts."""
    if not layouts:
        return problem
    inputs = {
        name: arranged(value, name, layouts) for name, value in problem.inputs.items()
    }
    return problem.but(
        params=arranged(problem.params, "params", layouts), inputs=inputs
    )


def arranged(value: Any, name: str, layouts: Layouts) -> Any:
    """An argument with its tensors in the port's layouts: tensors, Blocks, Params."""
    if isinstance(value, torch.Tensor):
        layout = _layout(layouts, name)
        return value if layout is None or value.is_meta else layout.forward(value)
    if isinstance(value, Blocks | Params):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(
            value,
            **{
                key: arranged(part, f"{name}.{key}", layouts)
                for key, part in parts.items()
            },
        )
    return value


def expected_as(want: Expected, name: str, layouts: Layouts) -> Expected:
    """What the port itself returns for a result, in its own layout."""
    layout = _layout(layouts, name)
    if layout is None:
        return want
    sample = layout.forward(torch.zeros(want.shape, dtype=want.dtypes[0]))
    kept = sample.dtype == want.dtypes[0]
    return replace(
        want,
        shape=tuple(sample.shape),
        dtypes=want.dtypes if kept else (sample.dtype,),
    )


def restored(got: torch.Tensor, want: Expected, name: str, layouts: Layouts) -> Any:
    """A result as the protocol has it."""
    layout = _layout(layouts, name)
    return got if layout is None else layout.inverse(got, want.shape)


def _layout(layouts: Layouts, name: str) -> Layout | None:
    return get(layouts[name]) if name in layouts else None
