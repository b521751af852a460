"""The port as a black box: hand-made tensors in, results out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from oracle.models import MODELS
from oracle.numerics import Numerics
from oracle.params import Params
from oracle.spec import PLAIN_TYPES, Layer
from refmoe.case import Case
from refmoe.port import Port, accepts
from refmoe.problem import Problem
from refmoe.regimes.regime import TORCH, plain
from refmoe.runner import run
from refmoe.verdict import Outcome

#: Results of any float type come back as they are.
_ANY = Numerics(output="none", intermediate="none")
#: Changes that take a stage out of the layer, tried one by one.
_NEUTRAL: tuple[tuple[str, Any], ...] = (
    ("activation.limit", 2.0**120), ("shared", None), ("routing.scale", 1.0),
    ("routing.groups", 1), ("routing.top_groups", 1), ("routing.zero_experts", 0),
)  # fmt: skip

#: Layers that fail for one and the same reason, after which no other is tried.
_EQUAL_REASONS = 6

Run = Callable[[Port, Problem], Outcome]


class Silent(Exception):
    """The port gave no answer; the message says why."""


@dataclass
class Box:
    """A port under experiment, called through `run`, which may run it elsewhere."""

    port: Port
    run: Run = run
    calls: int = 0
    _cases: dict[tuple[object, ...], Case | str] = field(default_factory=dict)

    def call(
        self, case: Case, params: Params, inputs: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """The results of one call by name; raises Silent if there are none."""
        self.calls += 1
        problem = Problem(case, case.layer, params, dict(inputs), self._any(case))
        outcome = self.run(self.port, problem)
        if outcome.status != "ran":
            last = outcome.log.strip().splitlines()[-1:] or [""]
            raise Silent(f"{case.op}: {outcome.status} {last[0]}".strip())
        if not outcome.outputs:
            raise Silent(f"{case.op}: {'; '.join(outcome.violations)}")
        return dict(outcome.outputs)

    def _any(self, case: Case) -> Numerics:
        """Numerics under which results of any type come back; where the port writes
        into a buffer, it is of the type that it declares."""
        if not accepts(self.port.ops.get(case.op, len), "out"):
            return _ANY
        declared = self.port.definition(case.layer)[1]
        return _ANY.but(output=declared.output, intermediate=declared.intermediate)

    def case(
        self,
        key: str,
        candidates: Iterator[Case],
        trial: Callable[[Case], object],
    ) -> Case:
        """The first candidate that the port runs, remembered under `key`.

        Raises Silent with the reason of the last one if it runs none.
        """
        if (key,) not in self._cases:
            reason = "the port declares that it supports no layer that was tried"
            equal = 0
            for candidate in candidates:
                if equal == _EQUAL_REASONS:
                    self._cases[key,] = reason
                    break
                if self.supports(candidate):
                    try:
                        trial(candidate)
                        self._cases[key,] = candidate
                        break
                    except Silent as silent:
                        equal = equal + 1 if str(silent) == reason else 1
                        reason = str(silent)
            else:
                self._cases[key,] = reason
        found = self._cases[key,]
        if isinstance(found, str):
            raise Silent(found)
        return found

    def supports(self, case: Case) -> bool:
        """Whether the port has the op and declares nothing against the case."""
        try:
            _ = case.layer
            return case.op in self.port.ops and self.port.unsupported(case) is None
        except Exception:
            return False

    def layers(self, op: str, **sizes: int) -> Iterator[Case]:
        """Cases of `op` to try: the plainest layer first, then models in bf16.

        A model comes with every stage taken out that the port can do without. Layers
        with expert biases come before the same without; narrow activations come last.
        """
        for dtype in ("bf16", "fp32", "fp16", "fp64"):
            base = plain_case(op, dtype, sizes)
            yield base.but(changes=(("expert_bias", True),))
            yield base
            for name in self._models() if dtype == "bf16" else ():
                yield from self._neutral(base, name)
        narrow = plain_case(op, "bf16", sizes)
        narrow = narrow.but(activations="mxfp8_e4m3", requantize="mxfp8_e4m3")
        yield narrow.but(changes=(("expert_bias", True),))
        yield narrow

    def _models(self) -> list[str]:
        return [name for name, layer in MODELS.items() if layer.activation.gated]

    def _neutral(self, base: Case, model: str) -> Iterator[Case]:
        layer = MODELS[model]
        case = base.but(model=model)
        changes: dict[str, Any] = {}
        if layer.shared is not None:
            times = max(
                layer.shared.count, layer.shared.intermediate // layer.intermediate
            )
            changes["shared.intermediate"] = (base.I or 1) * times
        case = _changed(case, changes)
        if not self.supports(case):
            return
        for key, value in _NEUTRAL:
            if key == "activation.limit" and not layer.activation.limit:
                continue
            less = {name: item for name, item in changes.items()}
            if key == "shared":
                less.pop("shared.intermediate", None)
            less[key] = value
            attempt = _changed(case, less)
            if self.supports(attempt):
                case, changes = attempt, less
        yield case


def plain_case(op: str, dtype: str, sizes: Mapping[str, int]) -> Case:
    """A case of the default layer with every operand in one plain type."""
    types = dict.fromkeys(("dtype", "weights", "activations", "requantize"), dtype)
    return Case(op).but(**sizes, **types)


def _changed(case: Case, changes: Mapping[str, Any]) -> Case:
    return case.but(changes=tuple(sorted(changes.items())))


def blank(layer: Layer, gate_up: torch.Tensor, down: torch.Tensor) -> Params:
    """Params with these weights, and whatever else the layer has made neutral."""
    dtype = layer.dtype
    found: dict[str, torch.Tensor] = {}
    if layer.expert_bias:
        found["gate_up_bias"] = zeros(dtype, layer.experts, layer.gate_up_rows)
        found["down_bias"] = zeros(dtype, layer.experts, layer.hidden)
    if layer.routing.bias != "none":
        found["router_bias"] = zeros("fp32", layer.routed_choices)
    if layer.routing.per_expert_scale:
        found["per_expert_scale"] = zeros("fp32", layer.routed_choices) + 1
    if layer.shared is not None:
        width, activation = layer.shared.intermediate, layer.shared.activation
        rows = width * (2 if (activation or layer.activation).gated else 1)
        found["shared_gate_up"] = zeros(dtype, rows, layer.hidden)
        found["shared_down"] = zeros(dtype, layer.hidden, width)
        if layer.shared.combine == "gated":
            found["shared_gate"] = zeros(dtype, layer.hidden)
    return Params(gate_up, down, **found)


def zeros(dtype: str, *shape: int) -> torch.Tensor:
    """Zeros of a plain type."""
    return torch.zeros(*shape, dtype=TORCH[dtype])


def exactly(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """f64 values as a tensor of a plain type that holds them.

    Raises Silent where the type does not.
    """
    assert dtype in PLAIN_TYPES
    found = plain(values, dtype)
    if not torch.equal(found.double(), values):
        raise Silent(f"{dtype} holds not every value of the experiment")
    return found


def without_weights(layer: Layer) -> Params:
    """Params for ops that look at none of the weights."""
    shape = (layer.experts, layer.gate_up_rows, layer.hidden)
    gate_up = torch.empty(shape, device="meta")
    down = torch.empty(shape[0], shape[2], layer.intermediate, device="meta")
    found = blank(replace(layer, shared=None, expert_bias=False), gate_up, down)
    return found


def bits(value: float) -> str:
    """A number as the shortest exact hexadecimal float.

    >>> bits(1.5), bits(0.0)
    ('0x1.8p+0', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, p, exponent = value.hex().partition("p")
    return f"{mantissa.rstrip('0').rstrip('.')}{p}{exponent}"
