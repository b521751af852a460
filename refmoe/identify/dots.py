"""Dot products through whatever op of the port adds them up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from oracle.spec import Layer
from refmoe.case import Case
from refmoe.identify.box import Box, Silent, exactly, plain_case, without_weights
from refmoe.identify.wires import CONSTANT, Wires, found_weight, wires

#: Summands, columns a call, and equal rows that go together, as in a real GEMM.
SUMMANDS = 256
_ROWS = 8


@dataclass(frozen=True)
class Dots:
    """One token times many columns, over SUMMANDS products."""

    box: Box
    case: Case
    wires: Wires | None = None

    @cached_property
    def layer(self) -> Layer:
        return self.case.layer

    @property
    def op(self) -> str:
        return self.case.op

    @property
    def columns(self) -> int:
        """Dot products of one call; tiles at the far edge may add in another order."""
        return self._all * 3 // 4

    @property
    def _all(self) -> int:
        return self.layer.gate_up_rows if self.wires is None else self.wires.probes

    def __call__(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """x w^T as the port has it.

        Shapes: x f64[K], w f64[N, K] -> f64[N]
        """
        parts = []
        for start in range(0, len(w), self.columns):
            part = w[start : start + self.columns]
            full = torch.zeros(self._all, w.shape[1], dtype=torch.float64)
            full[: len(part)] = part
            found = self._gemm(x, full) if self.wires is None else self._wired(x, full)
            parts.append(found[: len(part)])
        return torch.cat(parts)

    def _gemm(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        dtype = self.layer.dtype
        rows = exactly(x.expand(_ROWS, -1), dtype)
        inputs = {
            "x": rows,
            "weights": exactly(w[None], dtype),
            "offsets": torch.tensor([0, _ROWS]),
        }
        found = self.box.call(self.case, without_weights(self.layer), inputs)
        return found["y"][0].double()

    def _wired(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Through GEMM1: up is the dot product, down hands it on."""
        wired = self.wires
        assert wired is not None
        layer, free = wired.layer, wired.probes
        # Far above beta, which is then lost without a trace.
        scale = 1.0
        if layer.activation.beta:
            least = (x * w).abs()
            scale = 2.0**40 / float(torch.exp2(least[least > 0].min().log2().floor()))
        gate = torch.zeros(free, len(x), dtype=torch.float64)
        gate[:, 0] = CONSTANT / x[0]
        down = torch.zeros(
            layer.experts, layer.hidden, layer.intermediate, dtype=torch.float64
        )
        place = torch.arange(free)
        down[0, place, place] = 1.0 / CONSTANT
        found = wired.run(down, x=x, gate=gate, up=w * scale)[0, :free]
        found = found / found_weight(wired.case)
        if layer.activation.beta:
            found = found.masked_fill(found.abs() < 2.0**10, 0.0)
        return found / scale


def dots(box: Box, dtype: str | None = None) -> Dots:
    """The port's grouped GEMM (of operands in `dtype`), else GEMM1 of its experts or
    of its layer.

    Raises Silent if it has neither.
    """
    if "grouped_gemm" in box.port.ops:
        sizes = {"T": _ROWS, "H": SUMMANDS, "I": SUMMANDS // 2, "E": 1, "k": 1}
        x = torch.ones(SUMMANDS, dtype=torch.float64)

        def trial(case: Case) -> None:
            found = Dots(box, case)(x, torch.ones(1, SUMMANDS, dtype=torch.float64))
            if found.tolist() != [float(SUMMANDS)]:
                raise Silent(f"grouped_gemm: {SUMMANDS} ones add up to {found[0]}")

        cases = box.layers("grouped_gemm", **sizes)
        if dtype is not None:
            cases = iter([plain_case("grouped_gemm", dtype, sizes)])
        return Dots(box, box.case(f"dots {dtype}", cases, trial))
    if dtype is not None:
        raise Silent("the port has no op grouped_gemm")
    wired = wires(box, hidden=SUMMANDS, intermediate=SUMMANDS, experts=2)
    return Dots(box, wired.case, wired)
