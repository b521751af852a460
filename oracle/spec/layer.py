"""One MoE layer, and the expert that every token visits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from oracle.spec.activation import Activation
from oracle.spec.blocks import BlockFormat
from oracle.spec.checks import at_least, choose
from oracle.spec.routing import Routing

WeightOn = Literal["input", "intermediate", "output"]
SharedCombine = Literal["add", "gated", "average", "rsqrt2", "weighted"]

#: The plain (unscaled) types that x, weights and outputs may have.
PLAIN_TYPES = ("fp64", "fp32", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class Shared:
    """The expert that every token visits: an MLP of `intermediate` columns.

    combine: ``add``: y + s. ``gated``: y + sigmoid(x . g) s. ``average``: (y + s) / 2.
    ``rsqrt2``: (y + s) / sqrt(2). ``weighted``: `count` experts of intermediate / count
    columns each, weighted per token by the router (`Routing.shared_logits`).

    `weights` is the format of its weights, None the layer's dtype. A GEMM with block
    weights sees the operand that the routed experts' sees (`Layer.activations`,
    `Layer.requantize`), one with plain weights sees it as it is.
    """

    intermediate: int
    count: int = 1
    combine: SharedCombine = "add"
    activation: Activation | None = None
    weights: str | BlockFormat | None = None

    def __post_init__(self) -> None:
        at_least("Shared", "intermediate", self.intermediate, 1)
        at_least("Shared", "count", self.count, 1)
        choose("Shared", "combine", self.combine, get_args(SharedCombine))
        if isinstance(self.weights, str):
            choose("Shared", "weights", self.weights, PLAIN_TYPES)
        if self.intermediate % self.count:
            raise ValueError(
                f"Shared: intermediate={self.intermediate} is no multiple of "
                f"count={self.count}; give the columns of all shared experts together"
            )


@dataclass(frozen=True, slots=True)
class Layer:
    """One MoE layer: everything that decides what it computes.

    `dtype` is the type of x and of the output. `weights` is the format of the expert
    weights; `activations` the format x is quantised to before GEMM1, and `requantize`
    the one the intermediate is quantised to before GEMM2 (a plain type: no blocks).
    """

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    routing: Routing = field(default_factory=Routing)
    activation: Activation = field(default_factory=Activation)
    weight_on: WeightOn = "output"
    expert_bias: bool = False
    shared: Shared | None = None
    dtype: str = "bf16"
    weights: str | BlockFormat = "bf16"
    activations: str | BlockFormat = "bf16"
    requantize: str | BlockFormat = "bf16"
    name: str = "layer"

    def __post_init__(self) -> None:
        for name in ("hidden", "intermediate", "experts"):
            at_least("Layer", name, getattr(self, name), 1)
        at_least("Layer", "top_k", self.top_k, 1)
        choose("Layer", "dtype", self.dtype, PLAIN_TYPES)
        choose("Layer", "weight_on", self.weight_on, get_args(WeightOn))
        for name in ("weights", "activations", "requantize"):
            if isinstance(getattr(self, name), str):
                choose("Layer", name, getattr(self, name), PLAIN_TYPES)
        if self.top_k > self.routed_choices:
            raise ValueError(
                f"Layer: top_k={self.top_k} exceeds the {self.routed_choices} experts "
                "that can be chosen; lower top_k or raise experts"
            )
        groups = self.routing.groups
        if self.experts % groups:
            raise ValueError(
                f"Layer: experts={self.experts} do not divide into groups={groups}"
            )
        kept = self.experts // groups * self.routing.top_groups
        if groups > 1 and self.routing.masked_fill == "-inf" and self.top_k > kept:
            raise ValueError(
                f"Layer: top_k={self.top_k} exceeds the {kept} experts of the kept "
                f"groups; raise top_groups={self.routing.top_groups}"
            )

    @property
    def routed_choices(self) -> int:
        """How many ids the router chooses from: experts and identity experts."""
        return self.experts + self.routing.zero_experts

    @property
    def logits_columns(self) -> int:
        """Columns of the logits: chosen ones, then those of the shared experts."""
        return self.routed_choices + self.routing.shared_logits

    @property
    def gate_up_rows(self) -> int:
        """Rows of GEMM1's weight per expert: 2I when gated, else I."""
        return self.intermediate * (2 if self.activation.gated else 1)

    def resized(self, **sizes: int) -> Layer:
        """The same mathematics at other sizes: hidden, intermediate, experts, top_k."""
        return replace(self, **sizes)  # type: ignore[arg-type]
