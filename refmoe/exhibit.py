"""What a finding looks like: where its error lies, which stages hold, who had work."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch

from oracle.trace import Trace
from refmoe import reference
from refmoe.compare import NAMES, ratios
from refmoe.judge import Judgement
from refmoe.problem import Problem
from refmoe.stages import Stages
from refmoe.verdict import Outcome, Verdict

#: Most rows and columns of a picture.
LARGEST = 64
#: Most experts whose load is told one by one.
_EXPERTS = 4096


@dataclass(frozen=True, slots=True)
class Rung:
    """One stage on the way to the result; no verdict where it is not exposed."""

    tap: str
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Exhibit:
    """The pictures of one finding, as numbers.

    `grid` holds error / bound of `tap`, whose shape is `shape`: the largest of each
    patch where the tap has more rows or columns than LARGEST. `load` counts the rows of
    each expert.
    """

    tap: str = ""
    shape: tuple[int, ...] = ()
    grid: tuple[tuple[float, ...], ...] = ()
    ladder: tuple[Rung, ...] = ()
    load: tuple[int, ...] = ()

    @property
    def worst(self) -> float:
        """The largest error / bound of the picture."""
        return max((max(row) for row in self.grid), default=math.nan)


@dataclass(slots=True)
class Album:
    """Makes pictures of the first few findings of each place."""

    wanted: int = 0
    made: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def picture(
        self,
        place: tuple[str, ...],
        problem: Problem,
        outcome: Outcome,
        judgement: Judgement,
    ) -> Exhibit | None:
        """The pictures of a call; None where it is no finding, or one too many."""
        worth = judgement.verdict.kind.reported and outcome.status == "ran"
        if not worth or self.made[place] >= self.wanted:
            return None
        self.made[place] += 1
        return exhibit(problem, outcome, judgement)


def exhibit(problem: Problem, outcome: Outcome, judgement: Judgement) -> Exhibit:
    """The pictures of a call: the first stage that diverges, else the verdict's tap."""
    trace = reference.trace(problem)
    stages = Stages(problem, outcome.taps, reference.trace)
    stages.judge()
    judged = stages.taps(trace)
    verdicts = {
        verdict.tap: verdict for verdict in (*stages.verdicts, *judgement.results)
    }
    ladder = tuple(Rung(name, verdicts.get(name)) for name in judged)
    load = _load(problem, trace)
    tap = (judgement.first or judgement.verdict).tap
    got = outcome.outputs.get(tap)
    if tap in outcome.taps:
        got = stages.ordered(tap, outcome.taps[tap])
    ratio = None if got is None else _ratios(problem, outcome, judged, tap, got)
    if got is None or ratio is None or not ratio.numel():
        return Exhibit(tap, ladder=ladder, load=load)
    return Exhibit(tap, tuple(got.shape), _grid(ratio), ladder, load)


def _ratios(
    problem: Problem, outcome: Outcome, trace: Trace, tap: str, got: torch.Tensor
) -> torch.Tensor | None:
    """error / bound of every element; of what must be equal, infinite where it is not.

    None where no one picture holds: an order of rows that is free, bytes with several
    candidates.
    """
    if tap not in trace or trace[tap].value.shape != got.shape:
        return None
    admissible = trace["ids"].admissible if "ids" in trace else None
    if tap == "ids" and admissible is not None:
        bad = ~admissible.contains(got)
        return torch.where(bad, math.inf, 0.0)[:, None].expand(got.shape)
    if problem.case.op == "route" and tap == "weights" and admissible is not None:
        ids = outcome.outputs["ids"].long()
        if not bool(admissible.contains(ids).all()):
            return None
        trace = reference.trace(problem, given={"ids": ids})
    if got.dtype in NAMES and trace[tap].value.is_floating_point():
        return ratios(trace[tap], got, problem.numerics)
    if tap == "rows" or trace[tap].quantised is not None:
        return None
    return torch.where(got.long() != trace[tap].value.long(), math.inf, 0.0)


def _grid(ratio: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    """The largest ratio of each patch, to three digits."""
    flat = ratio.reshape(-1, ratio.shape[-1]) if ratio.ndim else ratio.reshape(1, 1)
    rows, columns = (min(size, LARGEST) for size in flat.shape)
    pool = torch.nn.functional.adaptive_max_pool2d
    patches = pool(flat.double()[None], (rows, columns))[0]
    return tuple(tuple(float(f"{x:.3g}") for x in row) for row in patches.tolist())


def _load(problem: Problem, trace: Trace) -> tuple[int, ...]:
    """Rows of each expert, where the op has any."""
    experts, inputs = problem.layer.experts, problem.inputs
    if "offsets" in inputs:
        return tuple(inputs["offsets"].diff().tolist())
    ids = inputs.get("ids", inputs.get("expert"))
    if ids is None and "ids" in trace:
        ids = trace["ids"].value
    if ids is None or experts > _EXPERTS:
        return ()
    ids = ids[(ids >= 0) & (ids < experts)].long()
    return tuple(torch.bincount(ids, minlength=experts).tolist())
