"""The nearest case that can be built: sizes raised to what model and formats take."""

from __future__ import annotations

import math

from oracle.spec import BlockFormat, Layer
from refmoe.case import Case, block_format, elements, rank_of
from refmoe.protocol import OPS

#: Experts of each group that a layer is described with before its own are known.
_MANY = 1024


def fitted(case: Case) -> Case:
    """The case at the nearest sizes that can be built, none of them smaller.

    H, I, E and k that its op looks at are given, with or without a model. H and I
    become whole blocks, in every rank; E a multiple of the router's groups, a square
    for product keys, and at least k and one for each rank; a shared expert is as wide
    as the experts, or as many of them as the model's. Splits that the layer does not
    admit are left out.
    """
    if case.slots == "twice":
        case = case.but(k=max(case.k or 1, 2))
    if not OPS[case.op].layered:
        case = case.but(E=_experts(case))
        return needed(_to_format(case) if takes_format(case.op) else case)
    layer = _described(case)
    if isinstance(layer.weights, BlockFormat) and 0 in layer.weights.block:
        # Scales of a whole axis are not cut.
        case = case.but(shard=None)
    routing = layer.routing
    k = 2 if routing.method == "sparsemixer" else case.k or 1
    experts = max(case.E or 1, k, rank_of(case.local or "0/1")[1])
    if routing.groups > 1:
        per_group = -(-experts // routing.groups)
        per_group = max(per_group, -(-k // routing.top_groups), 2)
        experts = routing.groups * per_group
    rank, size = rank_of(case.shard or "0/1")
    each = layer_step(layer, whole=size > 1) * size
    if takes_format(case.op):
        each = math.lcm(each, _step(block_format(case)))
    wide = raised(case.I or 1, each)
    changes = dict(case.changes)
    if layer.shared is not None:
        times = 1
        if case.model is not None:
            # As many experts wide as the model's own, where that is a whole number.
            times = layer.shared.intermediate // layer.intermediate
        changes["shared.intermediate"] = wide * max(layer.shared.count, times)
    if routing.zero_experts:
        changes["routing.zero_experts"] = 4
    if rank and _belongs_to_one_rank(layer):
        case = case.but(shard=f"0/{size}")
    case = case.but(
        H=raised(case.H or 1, layer_step(layer)),
        I=wide,
        E=experts,
        k=k,
        changes=tuple(sorted(changes.items())),
    )
    return needed(case)


def within(case: Case, largest: int) -> Case:
    """The fitted case with its sizes halved, the largest first, until it is no larger.

    What cannot be halved further stays, be it larger.
    """
    case = fitted(case)
    stuck: set[str] = set()
    while elements(case) > largest:
        sizes = {
            name: size
            for name in ("T", "H", "I", "E", "k")
            if (size := getattr(case, name)) and size > 1 and name not in stuck
        }
        if not sizes:
            return case
        name = max(sizes, key=lambda name: sizes[name])
        smaller = fitted(case.but(**{name: sizes[name] // 2}))
        if elements(smaller) < elements(case):
            case = smaller
        else:
            stuck.add(name)
    return case


def needed(case: Case) -> Case:
    """The case without the sizes that its op does not look at."""
    unused = {
        key: None for key in ("H", "I", "E", "k") if key not in OPS[case.op].sizes
    }
    return case.but(**unused) if case.model is None else case


def takes_format(op: str) -> bool:
    """Whether cases of `op` name a block format under test."""
    return any(field.name in ("format", "blocks") for field in OPS[op].arguments)


def raised(size: int, step: int) -> int:
    """The least multiple of `step` that is not below `size`."""
    return -(-size // step) * step


def layer_step(layer: Layer, *, whole: bool = False) -> int:
    """Multiples that H and I must have: whole blocks of every format.

    Formats whose last block may be short ask for none, unless blocks must be `whole`.
    """
    shared = "none" if layer.shared is None else layer.shared.weights or "none"
    forms = (layer.weights, layer.activations, layer.requantize, shared)
    return math.lcm(*(_step(form, whole) for form in forms))


def _step(form: str | BlockFormat, whole: bool = False) -> int:
    if isinstance(form, str) or (form.ragged and not whole):
        return 1
    return math.lcm(*(size for size in form.block if size))


def _described(case: Case) -> Layer:
    """The layer but for its sizes, which need not fit yet."""
    if case.model is not None:
        changes = tuple(
            (key, value)
            for key, value in case.changes
            if key not in ("shared.intermediate", "routing.zero_experts")
        )
        return case.but(H=None, I=None, E=None, k=None, changes=changes).layer
    groups = dict(case.changes).get("routing.groups", 1)
    return case.but(H=1, I=1, E=_MANY * int(groups or 1), k=1).layer


def _belongs_to_one_rank(layer: Layer) -> bool:
    """Whether a part of the layer cannot be left to the first rank's shard."""
    combine = None if layer.shared is None else layer.shared.combine
    return bool(layer.routing.zero_experts) or combine in ("average", "rsqrt2")


def _experts(case: Case) -> int:
    """At least k experts; a square of them where product keys address them."""
    experts = max(case.E or 1, case.k or 1, rank_of(case.local or "0/1")[1])
    if case.op.startswith("omni"):
        return (math.isqrt(experts - 1) + 1) ** 2
    return experts


def _to_format(case: Case) -> Case:
    form = block_format(case)
    step, rows = _step(form), form.block[0] or 1
    case = case.but(H=raised(case.H or 1, step))
    if case.op == "dequantize":
        # Rows of the blocks are tokens here: whole blocks, so at least one.
        case = case.but(T=raised(max(case.T, 1), rows))
    elif case.op == "quantize" and not form.ragged:
        case = case.but(T=raised(case.T, rows))
    return case
