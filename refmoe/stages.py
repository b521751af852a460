"""The stages that a port exposes, each against its tap: where does it first diverge?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from oracle.formats import get
from oracle.trace import TAPS, Tap, Trace
from refmoe.compare import NAMES, compare, compare_bytes, selection
from refmoe.problem import Problem
from refmoe.regimes.regime import TORCH
from refmoe.vacuity import sharpest, weighed
from refmoe.verdict import Kind, Verdict

#: Taps with one row per (token, choice), in the port's own order of rows.
_PERMUTED = (
    "gate_up", "intermediate", "intermediate_codes", "intermediate_scales", "down",
)  # fmt: skip
#: Taps that later stages start from, and the rounding point each has passed.
_READ = {
    "weights": "weights", "gate_up": "gate_up", "intermediate": "intermediate",
    "down": "down", "routed": "combine", "shared": "shared",
}  # fmt: skip


@dataclass(slots=True)
class Stages:
    """The exposed taps of one call, judged in the order in which they come about.

    A stage that passes stands in for everything before it: later ones, and the result,
    follow from the bytes that the port itself went on with. So a legitimate difference
    neither shows again further down nor hides a mistake there. In place of a stage that
    fails, the oracle's goes on.

    Rows of permuted taps are brought into the oracle's order through the port's own
    `rows`, where it exposes them; else they count as being in that order.
    """

    problem: Problem
    exposed: Mapping[str, torch.Tensor]
    oracle: Callable[..., Trace]
    trace: Trace = field(default_factory=Trace)
    verdicts: list[Verdict] = field(default_factory=list)
    given: dict[str, torch.Tensor] = field(default_factory=dict)
    order: torch.Tensor | None = None
    #: What each stage was judged by.
    met: dict[str, Tap] = field(default_factory=dict)
    #: Whether something has passed that the trace does not start from.
    stale: bool = False

    def judge(self) -> None:
        """Fill in the verdicts, and leave the trace that the result is judged by."""
        for name in TAPS:
            got = self.exposed.get(name)
            if got is None:
                continue
            if name not in self.trace or self.stale:
                self._reach(name)
            if name not in self.trace:
                known = ", ".join(self.oracle(self.problem))
                self._wrong(name, f"the oracle has no tap {name} here; it has {known}")
            elif name.endswith(("_codes", "_scales")):
                self._judge_bytes(name, self.ordered(name, got))
            else:
                self._judge_tap(name, self.ordered(name, got))
            if name in self.trace:
                self.met[name] = self.trace[name]
        self.trace = self.oracle(self.problem, given=self.given)

    def taps(self, whole: Trace) -> Trace:
        """What each tap was judged by, those not exposed as in the `whole` trace."""
        last = {n: tap for n, tap in self.trace.items() if n not in self.given}
        return Trace({**whole, **last, **self.met})

    def _reach(self, name: str) -> None:
        """Trace up to this tap, from what has passed so far."""
        self.trace = self.oracle(self.problem, given=self.given, upto=name)
        self.stale = False

    def _judge_tap(self, name: str, got: torch.Tensor) -> None:
        tap, numerics = self.trace[name], self.problem.numerics
        if tap.value.is_floating_point() and got.dtype not in NAMES:
            kind = str(got.dtype).removeprefix("torch.")
            self._wrong(name, f"{name} is {kind}; expose the floats themselves")
        elif got.shape != tap.value.shape:
            self._shape(name, got)
        elif name == "ids":
            self.verdicts.append(selection(name, tap, got))
            self._go_on({"ids": got.long()})
        else:
            verdict = compare(name, tap, got, numerics)
            sharp = self.problem.but(numerics=sharpest(numerics))
            self.verdicts.append(
                weighed(
                    verdict, tap, got, numerics,
                    lambda: self.oracle(sharp, given=self.given, upto=name)[name],
                )
            )  # fmt: skip
            point = _READ.get(name)
            if point is not None and _is_read(got, getattr(numerics, point)):
                self._go_on({name: _as_read(got, getattr(numerics, point))})

    def _judge_bytes(self, name: str, got: torch.Tensor) -> None:
        """Codes and scales together: each code is one under the port's own scale."""
        stem, _, part = name.rpartition("_")
        codes, scales = f"{stem}_codes", f"{stem}_scales"
        other = scales if part == "codes" else codes
        if other not in self.exposed:
            self._wrong(name, f"{name} without {other}; expose both or neither")
            return
        if got.shape != self.trace[name].value.shape:
            self._shape(name, got)
            return
        if part == "codes":
            return
        stored = self.ordered(codes, self.exposed[codes])
        if stored.shape == self.trace[codes].value.shape:
            found = compare_bytes(stem, self.trace, stored, got)
            self.verdicts += found
            source = self.trace[codes].quantised
            if source is not None and source.whole_known:
                self._go_on({codes: stored, scales: got}, count=2)

    def _go_on(self, given: dict[str, torch.Tensor], count: int = 1) -> None:
        """Later stages follow from what has just passed."""
        if not any(verdict.kind.failed for verdict in self.verdicts[-count:]):
            self.given |= given
            self.stale = True

    def ordered(self, name: str, got: torch.Tensor) -> torch.Tensor:
        """Rows of a permuted tap in the oracle's order."""
        if name == "rows" and got.shape == self.trace[name].value.shape:
            self.order = _matching(self.trace[name].value, got.long())
        order = self.order
        if name not in (*_PERMUTED, "rows") or order is None or len(got) != len(order):
            return got
        return got[order]

    def _shape(self, name: str, got: torch.Tensor) -> None:
        want = tuple(self.trace[name].value.shape)
        self._wrong(name, f"{name} has shape {tuple(got.shape)}; want {want}")

    def _wrong(self, name: str, detail: str) -> None:
        self.verdicts.append(Verdict(Kind.WRONG, name, detail=detail))


def _is_read(got: torch.Tensor, point: str) -> bool:
    """Whether a tensor can be what the next stage reads, no copy in fewer bits."""
    declared = "fp32" if point == "none" else point
    return get(NAMES[got.dtype]).mantissa >= get(declared).mantissa


def _as_read(got: torch.Tensor, point: str) -> torch.Tensor:
    """The tensor in the type of its rounding point, where that holds its values."""
    narrow = got.to(TORCH.get(point, got.dtype))
    return narrow if torch.equal(narrow.to(got.dtype), got) else got


def _matching(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor | None:
    """Where in `got` each slot of `want` stands; None if the slots differ."""
    if not torch.equal(want.sort().values, got.sort().values):
        return None
    return got.argsort()[want.argsort().argsort()]
