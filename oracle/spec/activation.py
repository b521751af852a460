"""What happens between the two GEMMs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from oracle.spec.checks import choose

ActivationKind = Literal[
    "swiglu", "geglu_tanh", "geglu_erf", "softcap",
    "silu", "gelu_erf", "relu2", "identity",
]  # fmt: skip
Clamp = Literal["before", "after"]

#: Activations with a gate and an up half; the others have one half ("up" only).
GATED = ("swiglu", "geglu_tanh", "geglu_erf", "softcap")


@dataclass(frozen=True, slots=True)
class Activation:
    """From gate and up f[R, I] to the intermediate f[R, I].

    With a limit L (None or 0: off) and ``clamp="before"``: g' = min(g, L) with no lower
    clamp, u' = clamp(u, -L, L), h = g' * sigmoid(alpha * g') * (u' + beta).
    ``clamp="after"``: h = min(act(g), L) * clamp(u, -L, L) [+ beta on u].
    softcap: h = c1 * tanh(g / c1) * sigmoid(g) * c2 * tanh(u / c2).
    Per-expert alpha, beta and limit travel in `Params` and override these.
    """

    kind: ActivationKind = "swiglu"
    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None
    clamp: Clamp = "before"
    gate_cap: float = 4.0
    up_cap: float = 25.0

    def __post_init__(self) -> None:
        choose("Activation", "kind", self.kind, get_args(ActivationKind))
        choose("Activation", "clamp", self.clamp, get_args(Clamp))
        if self.limit is not None and not self.limit >= 0:
            raise ValueError(
                f"Activation: limit={self.limit} must be >= 0; None or 0 is off"
            )
        for name in ("gate_cap", "up_cap"):
            if not getattr(self, name) > 0:
                value = getattr(self, name)
                raise ValueError(f"Activation: {name}={value} must be > 0")

    @property
    def gated(self) -> bool:
        """Whether GEMM1 yields a gate beside up: 2I rows instead of I."""
        return self.kind in GATED
