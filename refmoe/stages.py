"""The stages that a port exposes, each against its tap: where does it first diverge?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from oracle.trace import TAPS, Trace
from refmoe.compare import compare, selection
from refmoe.problem import Problem
from refmoe.verdict import Kind, Verdict

#: Taps with one row per (token, choice), in the port's own order of rows.
_PERMUTED = (
    "gate_up", "intermediate", "intermediate_codes", "intermediate_scales", "down",
)  # fmt: skip


def stage_verdicts(
    problem: Problem,
    exposed: Mapping[str, torch.Tensor],
    trace: Trace,
    oracle: Callable[..., Trace],
) -> list[Verdict]:
    """Verdicts of the exposed taps, in the order in which they come about.

    Rows of permuted taps are brought into the oracle's order through the port's own
    `rows`, where it exposes them; else they count as being in that order. Where it
    exposes admissible ids, the stages after them are those of its own selection, in its
    own order.
    """
    found: list[Verdict] = []
    order: torch.Tensor | None = None
    for name in TAPS:
        got = exposed.get(name)
        if got is None:
            continue
        if name not in trace:
            known = ", ".join(trace)
            found.append(
                Verdict(
                    Kind.WRONG, name,
                    detail=f"the oracle has no tap {name} here; it has {known}",
                )
            )  # fmt: skip
            continue
        tap = trace[name]
        if name == "ids":
            found.append(selection(name, tap, got))
            if not found[-1].kind.failed and not torch.equal(got.long(), tap.value):
                rows = torch.arange(len(got))
                trace = oracle(problem, rows=rows, ids=got.long())
            continue
        if name == "rows" and got.shape == tap.value.shape:
            order = _matching(tap.value, got.long())
            got = got if order is None else got[order]
        if name in _PERMUTED and order is not None and len(got) == len(order):
            got = got[order]
        if got.shape != tap.value.shape:
            detail = (
                f"{name} has shape {tuple(got.shape)}; want {tuple(tap.value.shape)}"
            )
            found.append(Verdict(Kind.WRONG, name, detail=detail))
            continue
        found.append(compare(name, tap, got, problem.numerics))
    return found


def _matching(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor | None:
    """Where in `got` each slot of `want` stands; None if the slots differ."""
    if not torch.equal(want.sort().values, got.sort().values):
        return None
    return got.argsort()[want.argsort().argsort()]
