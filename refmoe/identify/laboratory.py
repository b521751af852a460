"""What every experiment shares: the black box, what is declared, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from oracle.numerics import Numerics
from oracle.spec import BlockFormat, Layer
from refmoe.case import Case
from refmoe.identify.box import Box, Silent
from refmoe.identify.contest import Contest
from refmoe.identify.identified import Evidence, Open

DEFAULT = {entry.name: getattr(Numerics(), entry.name) for entry in fields(Numerics)}
_ATTRIBUTES = ("deterministic", "batch_invariant", "stable")


@dataclass
class Laboratory:
    """A black box and what is known of it so far."""

    box: Box
    evidence: list[Evidence] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    #: Sums that differ from call to call, in words.
    varying: str = ""

    def attempt(
        self, names: Iterable[str], experiment: Callable[[], Iterator[Evidence]]
    ) -> bool:
        """Whether the experiment gave an answer; else the fields `names` are open."""
        try:
            for item in experiment():
                self.evidence.append(item)
        except Silent as silent:
            self.leave_open(names, str(silent))
            return False
        return True

    def leave_open(self, names: Iterable[str], reason: str) -> None:
        """Fields that nothing is found about, unless something already is."""
        known = {item.field for item in self.evidence}
        known |= {item.field for item in self.open}
        self.open += [Open(name, reason) for name in names if name not in known]

    def settled(
        self, contest: Contest, stated: Mapping[str, Any], prefix: str = ""
    ) -> Iterator[Evidence]:
        """The contest's evidence; fields that it leaves open are noted."""
        evidence, still_open = contest.settle(stated, DEFAULT)
        self.open += [Open(prefix + item.field, item.reason) for item in still_open]
        yield from evidence

    def value(self, name: str, otherwise: str) -> Any:
        """What was found of a field."""
        values = [item.value for item in self.evidence if item.field == name]
        return values[-1] if values else otherwise

    def declared(self, layer: Layer) -> Numerics | None:
        """The declared arithmetic for a layer; None if the port declares none."""
        if self.box.port.declared or self.box.port.get("declares") is not None:
            return self.box.port.definition(layer)[1]
        return None

    def stated(self, case: Case, compute: str = "fp32") -> dict[str, Any]:
        """What the port declares for the case's layer, by field.

        A rounding point of "none" stands for the type `compute` of the arithmetic.
        """
        layer, _ = self.box.port.definition(case.layer)
        found: dict[str, Any] = {
            name: True for name in _ATTRIBUTES if self.box.port.get(name)
        }
        found["weight_on"] = layer.weight_on
        found["renormalize"] = layer.routing.renormalize
        found["epsilon"] = layer.routing.epsilon
        for point in ("activations", "requantize"):
            form = getattr(layer, point)
            if isinstance(form, BlockFormat):
                found[f"{point}.scale_rule"] = form.scale_rule
                found[f"{point}.rounding"] = form.rounding
        numerics = self.declared(case.layer)
        for name in DEFAULT if numerics is not None else ():
            value = getattr(numerics, name)
            if name in ("gemm", "logits"):
                value = "none" if value in ("fp32", compute) else value
            elif value == "none":
                value = compute
            found[name] = value
        return found
