"""A hypothesis: one neighbouring specification or known mistake, as a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from oracle.params import Params
from oracle.spec import Layer
from oracle.trace import Tap
from refmoe.problem import Problem

#: Another problem whose right result is the mistaken one; None where nothing changes.
Change = Callable[[Problem], Problem | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage stands: what an alteration of its tap may look at.

    `problem` is the one that the port declares, `params` those of the changed one,
    `taps` the stages before.

    Shapes: offsets i64[E + 1], where each expert's rows start; slots i64[R], the
    t * k + j of each row. Both are empty for stages without rows.
    """

    problem: Problem
    params: Params
    offsets: torch.Tensor
    slots: torch.Tensor
    taps: Mapping[str, Tap]

    @property
    def layer(self) -> Layer:
        """The layer that the port declares."""
        return self.problem.layer

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What the op was given."""
        return self.problem.inputs


#: What becomes of one stage's tap under the hypothesis.
Alteration = Callable[[Place, Tap], Tap]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What may have gone wrong, and how the oracle computes it.

    The oracle runs on the problem that `change` makes, with the taps in `alter`
    replaced as they come about; `ops` says where that makes sense (empty: everywhere).
    """

    name: str
    about: str
    change: Change | None = None
    alter: Mapping[str, Alteration] = field(default_factory=dict)
    ops: tuple[str, ...] = ()

    def suits(self, op: str) -> bool:
        """Whether the hypothesis says anything of `op`."""
        return not self.ops or op in self.ops
