"""An entry of the table of MoE blocks: what one class computes and how it is fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch

from oracle.params import Params
from oracle.spec import Layer

#: Where a parameter of the block comes from.
Place = Callable[[Params, Layer], torch.Tensor]
#: A config field that is computed: the path it depends on, and the value.
Derived = tuple[str, Callable[[Layer], object]]

SIZES = ("hidden", "intermediate", "experts", "top_k", "dtype", "name",
         "weights", "activations", "requantize")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """One MoE block of transformers.

    `layer` is the mathematics that its code computes. Whatever `reads` names the caller
    may choose, everything else is fixed by the code.
    """

    name: str
    config: str
    #: The class, or a function of transformers' module and the config.
    module: str | Callable[[Any, Any], torch.nn.Module]
    layer: Layer
    #: Config field -> dotted path of the layer that it is read from.
    reads: Mapping[str, str | Derived]
    #: Parameter or buffer of the block -> what it holds.
    places: Mapping[str, Place]
    #: Config fields with one fixed value.
    settings: Mapping[str, object] = field(default_factory=dict)
    #: Dotted path -> what the model's own definition says where this code departs.
    departs: Mapping[str, object] = field(default_factory=dict)
    #: Rounding points that are not of the layer's dtype; "narrow" and "wide" mean that
    #: dtype but at most, or at least, fp32.
    rounds: Mapping[str, str] = field(default_factory=dict)
    #: Paths beside those of `reads` that the tensors' own shapes decide.
    free: tuple[str, ...] = ()
    router: str = "gate"
    #: Submodule called as (x, ids, weights); None where the class has no such call.
    experts: str | None = "experts"
    #: Whether the eager loop takes weights wider than x.
    promotes: bool = True
    #: Whether the class has its own loop alone, whatever the config asks for.
    eager: bool = False
    #: Positional arguments of the class after the config.
    arguments: tuple[int, ...] = ()
    #: Folder of transformers.models where it is not `name`.
    folder: str = ""
    #: Parameters that the class creates in fp32 whatever the model's dtype.
    fp32: tuple[str, ...] = ()
    #: A further requirement: why a layer cannot be built, or None.
    refuses: Callable[[Layer], str | None] = lambda layer: None

    def configuration(self, layer: Layer) -> dict[str, object]:
        """Arguments of the config class for `layer`."""
        values = dict(self.settings)
        for name, source in self.reads.items():
            if isinstance(source, str):
                values[name] = lookup(layer, source)
            else:
                values[name] = source[1](layer)
        return values

    def unsupported(self, layer: Layer) -> str | None:
        """Why this code is not an implementation of `layer`; None if it is one."""
        free = {*SIZES, "shared.weights", *self.free}
        free.update(s if isinstance(s, str) else s[0] for s in self.reads.values())
        for path, value in _leaves(layer).items():
            own = lookup(self.layer, path)
            if path in free or value == own:
                continue
            if path not in self.departs or value != self.departs[path]:
                return f"{path}={value!r}; transformers' {self.name} has {own!r}"
        limit = layer.activation.limit
        if "activation.limit" in self.reads.values() and not limit:
            return f"activation.limit={limit}; the block always clamps"
        if isinstance(layer.activations, str) and layer.activations != layer.dtype:
            return f"activations={layer.activations!r}; the block has {layer.dtype!r}"
        return self.refuses(layer)

    def computed(self, layer: Layer) -> Layer:
        """What this code computes where the model's definition says `layer`.

        Beside what the code departs in, it quantises no activations: it runs on the
        values that quantised weights stand for.
        """
        for path in self.departs:
            layer = changed(layer, path, lookup(self.layer, path))
        for path in ("activations", "requantize"):
            if not isinstance(lookup(layer, path), str):
                layer = changed(layer, path, layer.dtype)
        return layer


def lookup(layer: Layer, path: str) -> Any:
    """The value at a dotted path; None below something that is None."""
    value: Any = layer
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def changed(layer: Layer, path: str, value: object) -> Layer:
    """`layer` with the field at a dotted path replaced."""
    head, _, rest = path.partition(".")
    if rest:
        value = replace(getattr(layer, head), **{rest: value})
    return replace(layer, **{head: value})  # type: ignore[arg-type]


def _leaves(layer: Any, prefix: str = "") -> dict[str, object]:
    """Every plain value of a layer by its dotted path; None stands for a whole part."""
    found: dict[str, object] = {}
    for item in fields(layer):
        value = getattr(layer, item.name)
        path = f"{prefix}{item.name}"
        if is_dataclass(value) and item.name not in SIZES:
            found |= _leaves(value, f"{path}.")
        else:
            found[path] = value
    return found
