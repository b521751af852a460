"""What a port supports, in words that also steer which cases it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from oracle.blocks.presets import PRESETS
from oracle.models import MODELS
from oracle.spec import BlockFormat, Layer
from oracle.spec.layer import PLAIN_TYPES
from refmoe.case import CHOICES, Case, rank_of
from refmoe.fitting import fitted, layer_step, raised
from refmoe.protocol import OPS, suggestion
from refmoe.ranks import TILE

#: (least, most), None where there is no end.
Range = tuple[int | None, int | None]
Names = tuple[str, ...] | None
SIZES = ("T", "H", "I", "E", "k")
#: What the words of a field may be, where that is known.
_KNOWN = {
    **CHOICES, "models": (*MODELS,), "formats": (*PRESETS,),
    "weights": (*PLAIN_TYPES, *PRESETS), "activations": (*PLAIN_TYPES, *PRESETS),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Supports:
    """Ranges, multiples and names that a port takes; None: all of them.

    T, H, I, E and k are (least, most); `multiples` has what they must divide into.
    `dtypes` are types of x, `weights` and `activations` plain types or formats of the
    expert weights and of what meets them, `formats` those of the quantising ops,
    `models` those whose formulas it has, and those of no other layer; `archs` GPU
    architectures like "sm_90". `local` False: no expert parallelism.
    `whole_blocks`: H and I are whole blocks of formats whose last may be short, too.
    `also` is asked last: a function (case) -> True, False, or why not.
    """

    T: Range | None = None
    H: Range | None = None
    I: Range | None = None  # noqa: E741
    E: Range | None = None
    k: Range | None = None
    multiples: Mapping[str, int] = field(default_factory=dict)
    dtypes: Names = None
    logits_dtype: Names = None
    bias_dtype: Names = None
    weights: Names = None
    activations: Names = None
    formats: Names = None
    models: Names = None
    archs: Names = None
    memory: Names = None
    slots: Names = None
    constants: Names = None
    local: bool = True
    whole_blocks: bool = False
    also: Callable[[Case], bool | str | None] | None = None

    def __post_init__(self) -> None:
        for name in SIZES:
            _check_range(name, getattr(self, name))
        for name, step in self.multiples.items():
            if name not in SIZES or not isinstance(step, int) or step < 1:
                raise ValueError(
                    f"Supports: multiples={{{name!r}: {step!r}}} must give one of "
                    f"{', '.join(SIZES)} a whole number from 1 on"
                )
        for name in _NAMES:
            _check_names(name, getattr(self, name))
        # Frozen, so that what steers a run cannot change during it.
        object.__setattr__(self, "multiples", MappingProxyType(dict(self.multiples)))

    def reason(self, case: Case, arch: str | None = None) -> str | None:
        """Why the case is not supported, the first reason; None if it is.

        `arch` is that of the port's device, where the case names none.
        """
        for name, size in sizes_of(case).items():
            low, high = getattr(self, name) or (None, None)
            if low is not None and size < low:
                return f"{name}={size} is below {low}"
            if high is not None and size > high:
                return f"{name}={size} is above {high}"
            step = self.multiples.get(name, 1)
            if size % step:
                return f"{name}={size} is no multiple of {step}"
            whole = self._whole(case) if name in ("H", "I") else 1
            if size % whole:
                return f"{name}={size} is no multiple of {whole}, whole blocks"
        for name, value in _names_of(case, arch).items():
            known = getattr(self, name)
            if known is not None and value is not None and value not in known:
                return f"{name}={value}; there is {', '.join(known)}"
        if case.local is not None and not self.local:
            return f"local={case.local}; there is no expert parallelism"
        answer = None if self.also is None else self.also(case)
        if answer is None or answer is True:
            return None
        return answer if isinstance(answer, str) and answer else "also() is False"

    def fitted(self, case: Case) -> Case:
        """The case with sizes held to the ranges, then raised to the multiples.

        Names that are not supported stay: they make the case UNSUPPORTED. So does a
        size that the model's routing does not admit.
        """
        changes = {}
        whole = self._whole(case)
        for name, size in sizes_of(case).items():
            fit = self.size(name, size)
            fit = raised(fit, whole) if name in ("H", "I") else fit
            if fit != size and not (name == "I" and case.shard is not None):
                changes[name] = fit
        other = case.but(**changes)
        try:
            _ = other.layer
        except ValueError:
            return case
        return other

    def instead(self, case: Case) -> Case:
        """The case in the formats named: the layer's own type, else the first."""
        if not OPS[case.op].weighted:
            return case
        changes, own = {}, case.layer.dtype
        if self.weights:
            changes["weights"] = own if own in self.weights else self.weights[0]
        if self.activations and case.op in ("experts", "moe"):
            first = own if own in self.activations else self.activations[0]
            changes |= {"activations": first, "requantize": first}
        return self.fitted(fitted(case.but(**changes)))

    def _whole(self, case: Case) -> int:
        """What H and I must divide into, for whole blocks."""
        wanted = self.whole_blocks and OPS[case.op].weighted
        return layer_step(case.layer, whole=True) if wanted else 1

    def size(self, name: str, size: int) -> int:
        """The supported size closest to `size`, not below it where that can be."""
        low, high = getattr(self, name) or (None, None)
        step = self.multiples.get(name, 1)
        size = size if low is None else max(size, low)
        size = -(-size // step) * step
        return size if high is None or size <= high else high // step * step


_NAMES = (
    "dtypes", "logits_dtype", "bias_dtype", "weights", "activations", "formats",
    "models", "archs", "memory", "slots", "constants",
)  # fmt: skip


def supports_of(value: Supports | Mapping[str, Any]) -> Supports:
    """A Supports from itself or from its fields by name.

    Raises ValueError for a name or value that is none.
    """
    if isinstance(value, Supports):
        return value
    known = [entry.name for entry in dataclasses.fields(Supports)]
    for name in value:
        if name not in known:
            raise ValueError(
                f"Supports: no field is called {name!r}; {suggestion(name, known)}"
            )
    return Supports(**value)


def sizes_of(case: Case) -> dict[str, int]:
    """The sizes that the case's op looks at, the model's own ones included.

    I is that of the whole layer, or a shard's padded one.
    """
    layer = case.layer
    wide = layer.intermediate
    if case.shard is not None:
        wide = raised(wide // rank_of(case.shard)[1], TILE)
    sizes = {
        "T": case.T, "H": layer.hidden, "I": wide, "E": layer.experts,
        "k": layer.top_k,
    }  # fmt: skip
    seen = ("T", *OPS[case.op].sizes)
    return {name: size for name, size in sizes.items() if name in seen}


def _names_of(case: Case, arch: str | None) -> dict[str, str | None]:
    """What the case has for each field of names; None where it has nothing."""
    op, layer = OPS[case.op], case.layer
    found = {
        "dtypes": layer.dtype,
        "logits_dtype": case.logits_dtype,
        "bias_dtype": case.bias_dtype,
        "formats": case.format,
        "models": case.model or ("none" if op.layered else None),
        "archs": case.arch or arch,
        "memory": case.memory,
        "slots": case.slots,
        "constants": case.constants,
    }
    if op.weighted:
        found["weights"] = _format_name(layer, "weights")
    if case.op in ("experts", "moe"):
        found["activations"] = _format_name(layer, "activations")
    return found


def _format_name(layer: Layer, name: str) -> str:
    form: str | BlockFormat = getattr(layer, name)
    return form if isinstance(form, str) else form.name


def _check_range(name: str, value: Any) -> None:
    if value is None:
        return
    fits = isinstance(value, tuple) and len(value) == 2
    if not fits or not all(end is None or isinstance(end, int) for end in value):
        raise ValueError(
            f"Supports: {name}={value!r} is no (least, most); write for example "
            f"{name}=(64, None)"
        )
    low, high = value
    if low is not None and high is not None and low > high:
        raise ValueError(f"Supports: {name}={value!r} is empty; give least <= most")


def _check_names(name: str, value: Any) -> None:
    if value is None:
        return
    listed = isinstance(value, tuple | list | set | frozenset)
    if not listed or not all(isinstance(item, str) for item in value):
        raise ValueError(
            f"Supports: {name}={value!r} is no tuple of names; write for example "
            f"{name}=({_example(name)!r},)"
        )
    for item in value:
        if item not in _KNOWN.get(name, (item,)):
            raise ValueError(
                f"Supports: {name} has no {item!r}; {suggestion(item, _KNOWN[name])}"
            )


def _example(name: str) -> str:
    return {"archs": "sm_90"}.get(name, _KNOWN.get(name, ("bf16",))[0])
