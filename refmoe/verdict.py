"""What comes out: verdicts, findings, outcomes; imports nothing of refmoe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from refmoe.exhibit import Exhibit


class Kind(StrEnum):
    """The verdicts, from the best to the worst that a port can get."""

    BIT_EQUAL = "BIT_EQUAL"
    WITHIN = "WITHIN"
    AMBIGUOUS = "AMBIGUOUS"
    UNDECIDED = "UNDECIDED"
    VACUOUS = "VACUOUS"
    MISSING = "MISSING"
    UNSUPPORTED = "UNSUPPORTED"
    REFUSED = "REFUSED"
    SUSPECT = "SUSPECT"
    UNDECLARED = "UNDECLARED"
    WRONG = "WRONG"
    CRASHED = "CRASHED"
    HUNG = "HUNG"

    @property
    def severity(self) -> int:
        """Place in the order above; the verdict of many taps is the severest."""
        return list(Kind).index(self)

    @property
    def executed(self) -> bool:
        """Whether the kernel ran: absent, unsupported and refused are no green pass."""
        return self not in (Kind.MISSING, Kind.UNSUPPORTED, Kind.REFUSED)

    @property
    def decided(self) -> bool:
        """Whether the case says anything about the kernel."""
        return self.executed and self not in (Kind.UNDECIDED, Kind.VACUOUS)

    @property
    def failed(self) -> bool:
        """Whether the exit status becomes 1."""
        return self in (Kind.WRONG, Kind.CRASHED, Kind.HUNG)

    @property
    def reported(self) -> bool:
        """Whether a case with this verdict is a finding of its own."""
        return self.failed or self in (Kind.UNDECLARED, Kind.SUSPECT, Kind.VACUOUS)


MEANING: dict[Kind, str] = {
    Kind.BIT_EQUAL: "every element equals the oracle's value after output rounding",
    Kind.WITHIN: "inside the bound derived from the declared arithmetic",
    Kind.AMBIGUOUS: "another of the selections that near-tied experts admit",
    Kind.UNDECIDED: "too many admissible selections, or a bound that admits zeros",
    Kind.VACUOUS: "the declaration admits zeros, as no known arithmetic would",
    Kind.MISSING: "the port has no such op",
    Kind.UNSUPPORTED: "the port declares that it does not support the case",
    Kind.REFUSED: "the port raised a clear refusal",
    Kind.SUSPECT: "beyond the statistical bound, inside the worst case",
    Kind.UNDECLARED: "outside the declared arithmetic, inside another known one",
    Kind.WRONG: "outside every arithmetic that is known",
    Kind.CRASHED: "the port raised or killed its process",
    Kind.HUNG: "the port did not return before its deadline",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one tap (or of a whole call, where `tap` is empty).

    `index`, `got`, `low`, `high` describe the element with the largest error relative
    to its bound: what came and the interval of what may come, in the type `dtype`.
    """

    kind: Kind
    tap: str = ""
    index: tuple[int, ...] = ()
    got: float | int | None = None
    low: float | int | None = None
    high: float | int | None = None
    #: Largest and median |got - value| / worst of the tap; inf where worst is 0.
    ratio: float | None = None
    median: float | None = None
    dtype: str = ""
    detail: str = ""
    #: How likely a right kernel's is SUSPECT; None where no statistical bound holds.
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a port did with one problem.

    status: ``ran``, ``refused``, ``unsupported``, ``missing``, ``crashed`` or ``hung``.
    `outputs` are the op's results by tap, `taps` the stages that the port exposes,
    `violations` the guards' sentences, `log` a traceback or the refusal's words.
    """

    status: str
    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    taps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    log: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that did not pass, ready to be shown and replayed.

    `first` is the first stage that diverges, where the port exposes its stages. A
    `deviation` departs from the model's definition but does what the port declares.
    `first_seen` is the case that showed it, where `case` is a smaller one alike.
    """

    case: str
    op: str
    port: str
    verdict: Verdict
    first: Verdict | None = None
    deviation: bool = False
    cause: str = ""
    first_seen: str = ""
    tactic: str = ""
    log: str = ""
    #: What judges it again, where that is not `refmoe repro`.
    command: str = ""
    #: Its pictures, where they were asked for.
    exhibit: Exhibit | None = None


def severest(verdicts: tuple[Verdict, ...]) -> Verdict:
    """The verdict of a call from the verdicts of its taps: the first of the severest.

    >>> severest((Verdict(Kind.WITHIN, "ids"), Verdict(Kind.WRONG, "weights"))).tap
    'weights'
    """
    return max(verdicts, key=lambda verdict: verdict.kind.severity)
