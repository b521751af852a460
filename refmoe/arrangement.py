"""Tensors as a port wants or returns them: the layouts that it declares.

`layouts` of a port maps names to layouts of `oracle.layouts`: results by their name
(``"scales": "scales_128x4"``), arguments by the path of the tensor
(``"params.gate_up.codes": "nibbles_low_first"``), either behind the name of the only op
that is meant (``"grouped_quantize.scales": "scales_128x4_grouped"``). Arguments are
arranged before a call, results brought back after it, so the judge sees canonical
tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from oracle.layouts import Layout, get
from oracle.params import Blocks, Params
from refmoe.port import accepts
from refmoe.problem import Problem, tensors
from refmoe.protocol import FUNCTIONS
from refmoe.results import Expected

Layouts = Mapping[str, Layout]


def layouts_of(named: Mapping[str, str], problem: Problem) -> dict[str, Layout]:
    """The layouts that concern the problem's op; one by expert has its offsets."""
    found: dict[str, Layout] = {}
    own: dict[str, Layout] = {}
    for place, name in named.items():
        op, _, rest = place.partition(".")
        if op not in FUNCTIONS:
            found[place] = _by_expert(get(name), problem.inputs.get("offsets"))
        elif FUNCTIONS[op] == problem.case.op:
            own[rest] = _by_expert(get(name), problem.inputs.get("offsets"))
    return found | own


def _by_expert(layout: Layout, offsets: torch.Tensor | None) -> Layout:
    """A layout of rows that lie by expert, between these offsets; others as they are.

    Rows past the last offset belong to nobody: they are not laid out, and come back 0.
    """
    if offsets is None or not accepts(layout.forward, "offsets"):
        return layout

    def forward(x: torch.Tensor) -> torch.Tensor:
        return layout.forward(x[: int(offsets[-1])], offsets)

    def inverse(y: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        rows = layout.inverse(y, shape, offsets=offsets.to(y.device))
        return torch.cat((rows, rows.new_zeros(shape[0] - len(rows), *shape[1:])))

    return replace(layout, forward=forward, inverse=inverse)


def objection(layouts: Layouts, problem: Problem, want: Mapping[str, Expected]) -> str:
    """Why a declared layout does not fit the problem's shapes; empty if all do."""
    shapes = {name: item.shape for name, item in want.items()}
    for argument, value in {"params": problem.params, **problem.inputs}.items():
        for name, tensor in tensors(value, argument).items():
            shapes[name] = tuple(tensor.shape)
    for name in layouts:
        if name not in shapes:
            continue
        layout, shape = layouts[name], shapes[name]
        if accepts(layout.forward, "offsets"):
            return (
                f"{name} of {problem.case.op} has no experts, by which its layout "
                f"{layout.name} goes; declare grouped_quantize.{name}"
            )
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
        layout = layouts.get(name)
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
    layout = layouts.get(name)
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
    layout = layouts.get(name)
    return got if layout is None else layout.inverse(got, want.shape)
