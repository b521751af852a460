"""An entry of the gallery: the plain port with one stage changed, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Literal

from oracle.numerics import Numerics
from oracle.params import Blocks
from oracle.spec import Layer
from refmoe.gallery.plain import Plain
from refmoe.gallery.plain.arithmetic import Tensor

Kind = Literal["honest", "mistake", "cheat"]

#: The classes of mistakes, as kernels have had them.
GROUPS = (
    "routing", "activation", "bias", "quantisation", "layout", "permutation",
    "dispatch", "overflow", "memory", "state", "precision",
)  # fmt: skip

#: Stages of the plain port by the narrowest op that shows them.
OP_OF = {
    stage: op
    for op, stages in {
        "route": "routing incoming transform score key strength mask choose gather "
        "renormalize rescale sparsemixer look_up",
        "quantize": "peak power encode scaling",
        "dequantize": "decode",
        "permute": "",
        "grouped_quantize": "",
        "grouped_gemm": "weight unpacked matmul product gemm stored",
        "activate": "activation",
        "combine": "weighted combined total",
        "experts": "seen routed first_gemm second_gemm add_bias with_identity",
        "moe": "shared rescale_sum",
        "omni_route": "sums",
        "omni_route_backward": "gradient",
        "omni_experts": "",
    }.items()
    for stage in (op, *stages.split())
}


class Stage:
    """The honest stage that a variant is built around.

    `memory` starts empty in every port and stays from call to call: for variants that
    remember.
    """

    def __init__(self, port: Plain, name: str) -> None:
        self.port = port
        self.honest: Callable[..., Any] = getattr(port, name)
        self.memory: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Tensor:
        """What the honest stage returns, where that is a tensor."""
        result: Tensor = self.honest(*arguments)
        return result

    def pair(self, *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        """What the honest stage returns, where that is two tensors."""
        first, second = self.honest(*arguments, **keywords)
        return first, second

    def blocks(self, *arguments: Any) -> Blocks:
        """What the honest stage returns, where that is blocks."""
        result: Blocks = self.honest(*arguments)
        return result


@dataclass(frozen=True)
class Entry:
    """One implementation: what it does, and what is known of it.

    `variant` takes the place of the stage `at`; it gets that Stage, then the stage's
    arguments. `reference` names public issues of the bug, none for a neighbour of
    reported ones; `shows` what a case needs to show it, `models` and `formats` those
    that have it where the default ones do not.
    `op` is the narrowest one that shows the variant, the whole layer by default.
    `verdict` is what a mistake deserves: UNDECLARED where it is a legitimate arithmetic
    that the port does not declare.
    """

    kind: Kind
    name: str
    about: str
    at: str = ""
    op: str = "moe"
    variant: Callable[..., Any] | None = None
    group: str = ""
    reference: str = ""
    shows: str = ""
    numerics: Numerics = field(default_factory=Numerics)
    declares: Callable[[Layer], Layer] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    verdict: str = "WRONG"

    def port(self) -> Plain:
        """A new port, which remembers nothing."""
        port = Plain(self.numerics, self.name)
        if self.variant is not None:
            setattr(port, self.at, partial(self.variant, Stage(port, self.at)))
        if self.declares is not None:
            port.declares = self.declares  # type: ignore[attr-defined]
        for name, value in self.attributes.items():
            setattr(port, name, value)
        return port


def decorator(kind: Kind, **fixed: Any) -> Callable[..., Callable[..., Entry]]:
    """Makes a decorator that turns variants into entries of one kind.

    The function's name and docstring become those of the entry.
    """

    def described(at: str, **fields: Any) -> Callable[..., Entry]:
        def entered(variant: Callable[..., Any]) -> Entry:
            about = (variant.__doc__ or "").strip()
            given = {"op": OP_OF.get(at, "moe"), **fixed, **fields}
            return Entry(kind, variant.__name__, about, at, variant=variant, **given)

        return entered

    return described


def collected(*modules: ModuleType) -> dict[str, Entry]:
    """The entries of some modules by name: their own, and those they list."""
    found: dict[str, Entry] = {}
    for module in modules:
        listed = [*vars(module).values(), *getattr(module, "ENTRIES", ())]
        for entry in listed:
            if isinstance(entry, Entry):
                assert entry.name not in found, f"two entries are called {entry.name}"
                found[entry.name] = entry
    return found


def ports(entries: Mapping[str, Entry]) -> Callable[[str], Plain]:
    """The `__getattr__` of a module whose attributes are new ports of its entries."""

    def port(name: str) -> Plain:
        if name not in entries:
            raise AttributeError(f"the gallery has no entry {name!r} here")
        return entries[name].port()

    return port
