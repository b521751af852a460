"""A case: one problem as one line of text, the same on every machine and version.

``moe model=mixtral-8x7b T=8 H=64 I=32 E=8 k=2 regime=randn seed=7``
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from oracle.numerics import PRESETS
from oracle.spec import Activation, BlockFormat, Layer, Routing, Shared
from refmoe.protocol import OPS

#: How tokens spread over experts: evenly, mostly on one, on half of them, on the last.
LOADS = ("uniform", "hot", "half", "high")
#: How inputs lie in memory: dense; in rows wider than they are; one element behind an
#: aligned address; as the transpose of a dense tensor.
MEMORY = ("contiguous", "strided", "offset", "transposed")
#: Which slots have an expert: all; some, and some tokens none at all; all, but one
#: expert stands twice in a token; all, but x has rows past the last offset.
SLOTS = ("all", "some", "twice", "tail")
#: Whether experts share alpha, beta, limit and global scales, or each has its own.
CONSTANTS = ("layer", "own")
#: Fields of a case that take one of a few words.
CHOICES: dict[str, tuple[str, ...]] = {
    "load": LOADS, "memory": MEMORY, "slots": SLOTS, "constants": CONSTANTS,
    "logits_dtype": ("fp32", "bf16", "fp16"), "bias_dtype": ("fp32", "bf16", "fp16"),
    "numerics": tuple(PRESETS),
}  # fmt: skip
_SIZES = {"H": "hidden", "I": "intermediate", "E": "experts", "k": "top_k"}
PARTS: dict[str, type] = {
    "routing": Routing, "activation": Activation, "shared": Shared, "layer": Layer,
}  # fmt: skip
Value = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that decides a problem; `str(case)` and `parse` are inverses.

    None means the model's own (or the layer's default where no model is named).
    `changes` holds fields of the layer by key, sorted: ("activation.limit", 7.0).
    """

    op: str
    model: str | None = None
    T: int = 4
    H: int | None = None
    I: int | None = None  # noqa: E741
    E: int | None = None
    k: int | None = None
    dtype: str | None = None
    weights: str | None = None
    activations: str | None = None
    requantize: str | None = None
    #: Block format under test, of the ops that quantise or dequantise.
    format: str | None = None
    regime: str = "randn"
    load: str = "uniform"
    slots: str = "all"
    memory: str = "contiguous"
    constants: str = "layer"
    #: Type of the logits (fp32), of the biases (the layer's, fp32 in the router).
    logits_dtype: str | None = None
    bias_dtype: str | None = None
    #: "rank/size": the experts of one rank alone, given by the keyword `local`.
    local: str | None = None
    #: "rank/size": one rank's run of the intermediate, padded with zeros.
    shard: str | None = None
    #: How many sampled tokens are judged (None: all).
    rows: int | None = None
    #: Declaration and tactic that take the place of the port's own.
    numerics: str | None = None
    tactic: str | None = None
    #: Law that related launches of the case are held to, instead of the oracle.
    law: str | None = None
    arch: str | None = None
    changes: tuple[tuple[str, Value], ...] = ()
    seed: int = 0

    def __str__(self) -> str:
        words = [self.op]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "changes":
                words += [f"{key}={_text(item)}" for key, item in value]
            elif field.name in ("T", "regime", "seed") or (
                field.name != "op" and value != field.default
            ):
                words.append(f"{field.name}={value}")
        return " ".join(words)

    def but(self, **changes: Any) -> Case:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def layer(self) -> Layer:
        """The layer that the case describes.

        Raises ValueError for an unknown model or format, a missing size, or sizes that
        the layer's routing does not admit.
        """
        return _layer_of(self)


@lru_cache(maxsize=64)
def _layer_of(case: Case) -> Layer:
    """The layer, kept: one case is asked for it many times."""
    given: dict[str, Any] = {}
    for key, name in _SIZES.items():
        size = getattr(case, key)
        if size is not None:
            given[name] = size
        elif case.model is None:
            if key in OPS[case.op].sizes:
                needed = ", ".join(OPS[case.op].sizes)
                raise ValueError(
                    f"case: {key} is missing; {case.op} needs {needed}, or a model"
                )
            given[name] = 1
    for name in ("weights", "activations", "requantize"):
        text = getattr(case, name)
        if text is not None:
            given[name] = format_of(text)
    if case.dtype is not None:
        given["dtype"] = case.dtype
    base = None if case.model is None else model_of(case.model)
    for part in ("routing", "activation", "shared"):
        changes: dict[str, Any] = {
            key.removeprefix(f"{part}."): value
            for key, value in case.changes
            if key.startswith(f"{part}.")
        }
        if changes:
            if "weights" in changes and changes["weights"] is not None:
                changes["weights"] = format_of(str(changes["weights"]))
            inner = getattr(base, part, None)
            if part == "shared" and inner is None and "intermediate" not in changes:
                raise ValueError(
                    "case: shared.intermediate is missing; the layer has no shared "
                    "expert that its size could come from"
                )
            built = replace(inner, **changes) if inner else PARTS[part](**changes)
            given[part] = built
    given |= {key: value for key, value in case.changes if "." not in key}
    return Layer(**given) if base is None else replace(base, **given)


def rank_of(text: str) -> tuple[int, int]:
    """(rank, size) of a field like "1/4"."""
    rank, size = text.split("/")
    return int(rank), int(size)


def model_of(name: str) -> Layer:
    """The preset called `name`; raises ValueError with the closest one."""
    from oracle import models

    return models.get(name)


def model_names() -> tuple[str, ...]:
    """Every preset that a case can name."""
    from oracle import models

    return tuple(models.MODELS)


def format_names() -> tuple[str, ...]:
    """Every block format that a case can name."""
    from oracle.blocks import PRESETS

    return tuple(PRESETS)


def format_of(name: str) -> str | BlockFormat:
    """A plain type or the block format called `name`; raises ValueError."""
    from oracle.blocks import preset
    from oracle.spec import PLAIN_TYPES

    return name if name in PLAIN_TYPES else preset(name)


def block_format(case: Case) -> BlockFormat:
    """The block format under test, MXFP8 where the case names none.

    Raises ValueError for a plain type.
    """
    form = format_of(case.format or "mxfp8_e4m3")
    if isinstance(form, str):
        raise ValueError(f"case: format={form} has no blocks; name a block format")
    return form


def elements(case: Case) -> int:
    """How many elements the tensors that `case` asks for have together."""
    layer = case.layer
    rows = case.T * layer.top_k * (layer.gate_up_rows + layer.hidden)
    count = rows + case.T * (layer.hidden + layer.logits_columns)
    if OPS[case.op].weighted:
        count += (
            layer.experts * (layer.gate_up_rows + layer.intermediate) * layer.hidden
        )
        count += layer.shared.intermediate * 3 * layer.hidden if layer.shared else 0
    return count


def _text(value: Value) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
