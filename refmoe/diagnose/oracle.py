"""The oracle under a hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from oracle.moe import told
from oracle.operands import spans_rows
from oracle.stages import Stages
from oracle.trace import Tap, Trace
from refmoe import reference
from refmoe.diagnose.hypothesis import Alteration, Hypothesis, Place
from refmoe.problem import Problem

#: The stage that a narrow op's result is, where their names differ.
STAGE = {("grouped_gemm", "y"): "gate_up"}


class Altered(Stages):
    """The layer stage by stage, some taps altered as soon as they are computed."""

    alter: Mapping[str, Alteration]
    declared: Problem

    def _tap(self, name: str, compute: Callable[[], Tap]) -> Tap:
        if name in self.taps or name not in self.alter:
            return super()._tap(name, compute)
        tap = super()._tap(name, compute)
        if name != "ids":
            self.ids()
        if name not in ("ids", "weights"):
            self.weights()
        self.taps[name] = self.alter[name](self._place(), tap)
        return self.taps[name]

    def _place(self) -> Place:
        rows = self.permutation
        return Place(self.declared, self.params, rows.offsets, rows.slots, self.taps)


def traced(
    hypothesis: Hypothesis,
    declared: Problem,
    problem: Problem,
    *,
    rows: torch.Tensor | None = None,
    given: Mapping[str, torch.Tensor] | None = None,
    upto: str | None = None,
) -> Trace:
    """The taps of `problem`, already changed, with the hypothesis' alterations.

    `declared` is the problem before the change; the rest is as in `reference.trace`.
    """
    if not hypothesis.alter:
        return reference.trace(problem, rows=rows, given=given, upto=upto)
    inputs, op, taken = problem.inputs, problem.case.op, dict(given or {})
    if op not in ("moe", "experts"):
        trace = reference.trace(problem, rows=rows, given=given)
        return _narrow(hypothesis, declared, problem, trace)
    if problem.sample is not None:
        rows = problem.sample if rows is None else problem.sample[rows]
    if op == "experts":
        own = {name: inputs[name] for name in ("ids", "weights")}
        if rows is not None and not spans_rows(problem.layer, problem.params):
            own = {name: value[rows] for name, value in own.items()}
        taken = own | taken
    local = inputs.get("local")
    stages = Altered(
        problem.layer, problem.params, inputs["x"], inputs.get("logits"),
        problem.numerics, taken, inputs.get("token_ids"), rows, local=local,
        replicated=local is None or local[0] == 0,
    )  # fmt: skip
    stages.alter, stages.declared = hypothesis.alter, declared
    (stages.out if op == "moe" else stages.routed)()
    return told(stages)


def _narrow(
    hypothesis: Hypothesis, declared: Problem, problem: Problem, trace: Trace
) -> Trace:
    """The taps of an op that is one stage, altered where the stage is."""
    none = torch.empty(0, dtype=torch.int64)
    own = declared.inputs
    place = Place(
        declared, problem.params,
        own.get("offsets", none), own.get("rows", none), trace,
    )  # fmt: skip
    found = dict(trace)
    for name, tap in trace.items():
        stage = STAGE.get((problem.case.op, name), name)
        change = hypothesis.alter.get(stage)
        if change is not None:
            found[name] = change(place, tap)
    return Trace(found)
