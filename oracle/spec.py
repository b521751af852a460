"""What an MoE layer computes: frozen descriptions, no tensors.

A `Layer` names every choice that decides the layer's mathematics; how an implementation
may *round* on the way is `oracle.numerics.Numerics`. All fields are plain values, so a
description prints as the Python that builds it, compares by value and can be hashed.

Notation: T tokens, H hidden, I intermediate, E experts, k top_k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

Score = Literal["softmax", "sigmoid", "sqrtsoftplus", "identity"]
Order = Literal["score_then_topk", "topk_then_score"]
Method = Literal["topk", "sparsemixer", "hash"]
Bias = Literal["none", "selection", "logits"]
GroupScore = Literal["max", "top2"]
MaskedFill = Literal["-inf", "zero"]
Renormalize = Literal["none", "sum", "sum_plus_epsilon", "max_sum_epsilon"]
ScaleOn = Literal["weights", "sum"]
ActivationKind = Literal[
    "swiglu", "geglu_tanh", "geglu_erf", "softcap", "silu", "gelu_erf", "relu2", "identity"
]
Clamp = Literal["before", "after"]
WeightOn = Literal["input", "intermediate", "output"]
SharedCombine = Literal["add", "gated", "average", "rsqrt2", "weighted"]
ScaleRule = Literal["floor", "ceil", "even", "rceil", "divide"]
Rounding = Literal["nearest_even", "half_away", "half_toward_zero", "toward_zero"]
Nonfinite = Literal["error", "propagate", "saturate"]

#: The plain (unscaled) types that x, weights and outputs may have.
PLAIN_TYPES = ("fp64", "fp32", "bf16", "fp16")
#: Activations with a gate and an up half; the others have one half ("up" only).
GATED = ("swiglu", "geglu_tanh", "geglu_erf", "softcap")


def choose(owner: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError naming `value` and what is allowed, unless it is allowed."""
    if value not in allowed:
        options = ", ".join(repr(option) for option in allowed)
        raise ValueError(f"{owner}: {name}={value!r} is unknown; use one of {options}")


def at_least(owner: str, name: str, value: int, least: int) -> None:
    """Raise TypeError or ValueError unless `value` is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        kind = type(value).__name__
        raise TypeError(f"{owner}: {name}={value!r} is a {kind}; give an int >= {least}")
    if value < least:
        raise ValueError(f"{owner}: {name}={value} is too small; give at least {least}")


@dataclass(frozen=True, slots=True)
class Routing:
    """From logits f[T, E] to ids i[T, k] and weights f[T, k].

    With l the logits after `logits_scale`, `softcap` and a logits bias:

    * ``score_then_topk``: s = score(l) over all experts; the k largest of the key
      s (+ selection bias) are chosen; weights come from s *without* the bias.
    * ``topk_then_score``: the k largest of l (+ selection bias) are chosen; weights are
      score(l) over the chosen ones alone.

    Groups: experts form `groups` equal runs; the `top_groups` best runs by `group_score`
    stay, the key of all others becomes `masked_fill`. Ties go to the lowest index
    everywhere, -0 equals +0. Then weights are renormalised, scaled per expert and by
    `scale` (on the weights, or on the summed routed output).
    """

    score: Score = "softmax"
    order: Order = "score_then_topk"
    method: Method = "topk"
    bias: Bias = "none"
    groups: int = 1
    top_groups: int = 1
    group_score: GroupScore = "max"
    masked_fill: MaskedFill = "-inf"
    renormalize: Renormalize = "none"
    epsilon: float = 0.0
    scale: float = 1.0
    scale_on: ScaleOn = "weights"
    per_expert_scale: bool = False
    #: l *= logits_scale, then l = softcap * tanh(l / softcap) where a softcap is set.
    logits_scale: float = 1.0
    softcap: float | None = None
    #: Sparsemixer's jitter epsilon (Phi-3.5); read by that method only.
    jitter: float = 0.01
    #: Extra columns of the logits whose expert is the identity (LongCat): y += w * x.
    zero_experts: int = 0
    #: Extra last columns of the logits that weight the shared experts and take part in
    #: the renormalisation (Inkling).
    shared_logits: int = 0

    def __post_init__(self) -> None:
        choose("Routing", "score", self.score, get_args(Score))
        choose("Routing", "order", self.order, get_args(Order))
        choose("Routing", "method", self.method, get_args(Method))
        choose("Routing", "bias", self.bias, get_args(Bias))
        choose("Routing", "group_score", self.group_score, get_args(GroupScore))
        choose("Routing", "masked_fill", self.masked_fill, get_args(MaskedFill))
        choose("Routing", "renormalize", self.renormalize, get_args(Renormalize))
        choose("Routing", "scale_on", self.scale_on, get_args(ScaleOn))
        at_least("Routing", "groups", self.groups, 1)
        at_least("Routing", "top_groups", self.top_groups, 1)
        at_least("Routing", "zero_experts", self.zero_experts, 0)
        at_least("Routing", "shared_logits", self.shared_logits, 0)
        if self.top_groups > self.groups:
            raise ValueError(
                f"Routing: top_groups={self.top_groups} exceeds groups={self.groups}; "
                "keep at most as many groups as there are"
            )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(
                f"Routing: softcap={self.softcap} must be positive; use None for no cap"
            )
        if not math.isfinite(self.epsilon) or self.epsilon < 0:
            raise ValueError(f"Routing: epsilon={self.epsilon} must be finite and >= 0")


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
                f"Activation: limit={self.limit} must be >= 0; None or 0 switches it off"
            )
        for name in ("gate_cap", "up_cap"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Activation: {name}={getattr(self, name)} must be > 0")

    @property
    def gated(self) -> bool:
        """Whether GEMM1 yields a gate beside up: 2I rows instead of I."""
        return self.kind in GATED


@dataclass(frozen=True, slots=True)
class Shared:
    """The expert that every token visits: an MLP of `intermediate` columns.

    combine: ``add``: y + s. ``gated``: y + sigmoid(x . g) * s. ``average``: (y + s) / 2.
    ``rsqrt2``: (y + s) / sqrt(2). ``weighted``: `count` experts of intermediate / count
    columns each, weighted per token by the router (`Routing.shared_logits`).
    """

    intermediate: int
    count: int = 1
    combine: SharedCombine = "add"
    activation: Activation | None = None

    def __post_init__(self) -> None:
        at_least("Shared", "intermediate", self.intermediate, 1)
        at_least("Shared", "count", self.count, 1)
        choose("Shared", "combine", self.combine, get_args(SharedCombine))
        if self.intermediate % self.count:
            raise ValueError(
                f"Shared: intermediate={self.intermediate} is no multiple of "
                f"count={self.count}; give the columns of all shared experts together"
            )


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """Codes with a scale per block: MXFP4, NVFP4, block FP8, INT8 per token ...

    `block` is (rows, columns) over the last two axes, columns along the reduction axis;
    0 stands for the whole axis. value = decode(code) * decode(scale) [* global scale].
    Presets with their sources are in `oracle.blocks.presets`.
    """

    name: str
    element: str
    block: tuple[int, int] = (1, 32)
    scale: str = "e8m0"
    scale_rule: ScaleRule = "floor"
    rounding: Rounding = "nearest_even"
    #: A second, per-tensor fp32 scale (NVFP4).
    global_scale: bool = False
    #: amax is raised to this before the scale rule.
    amax_floor: float = 0.0
    #: Smallest scale byte an E8M0 scale may get.
    minimum_byte: int = 0
    keep_negative_zero: bool = True
    #: Whether the last block along an axis may be short.
    ragged: bool = False
    nonfinite: Nonfinite = "error"
    #: How x meets the scale: multiply by the scale's reciprocal, or divide by the scale.
    #: Both are the same for power-of-two scales.
    reciprocal: bool = False

    def __post_init__(self) -> None:
        choose("BlockFormat", "scale_rule", self.scale_rule, get_args(ScaleRule))
        choose("BlockFormat", "rounding", self.rounding, get_args(Rounding))
        choose("BlockFormat", "nonfinite", self.nonfinite, get_args(Nonfinite))
        for size in self.block:
            at_least("BlockFormat", "block", size, 0)


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
        """The same mathematics at other sizes (hidden, intermediate, experts, top_k)."""
        return replace(self, **sizes)  # type: ignore[arg-type]
