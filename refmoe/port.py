"""A port as the suite sees it: its ops, its arithmetic, what else it declares."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch

from oracle.layouts import get
from oracle.numerics import PRESETS, Numerics
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.protocol import FUNCTIONS, OPS, suggestion
from refmoe.supports import Supports

#: Every attribute of a port beside its ops, with what it holds.
ATTRIBUTES: dict[str, str] = {
    "name": "str: what reports call the port",
    "version": "str: version of what the port wraps",
    "device": "str: where the port's tensors live, cuda or cpu",
    "numerics": "Numerics, or the name of a preset: the declared arithmetic",
    "declares": "function (layer) -> (Layer, Numerics): what it computes for a model",
    "prepare": "function (params, layer): repacks weights once, untimed",
    "supports": "Supports, its fields by name, or a function (case) -> True, False, or "
    "a str that says why not",
    "workspace": "function (case): scratch memory",
    "tactics": "function (case) -> tactics; each is judged, passed as `tactic=`",
    "layouts": "mapping: results by name and arguments by path (params.down.scales), "
    "behind the name of an op where only its own are meant (quantize.scales), to names "
    "of oracle.layouts: how they lie, other than the protocol says",
    "taps": "tuple of tap names that the ops put into the dict `taps=`, each as the "
    "next stage reads it",
    "stable": "bool: rows of one expert keep the order of their slots",
    "signed_zeros": "bool: zeros that no error could have moved keep their signs",
    "deterministic": "bool: the same call gives the same bits",
    "graph_safe": "bool: may be captured in a CUDA graph; or a tuple of the ops and "
    "tactics that may",
    "batch_invariant": "bool: a token's bits do not depend on the batch",
    "mutates": "tuple of argument names that a call may change",
    "on_arch": "function (arch) -> context manager: within it, calls run the code of "
    "that architecture (sm_80); a port without it has one code",
    "emulates": "tuple of architectures that `on_arch` stands in for without a GPU",
    "alignment": "int: bytes that pointers must be aligned to",
}


class Contract(TypedDict):
    """Whether order inside an expert and signs of zeros count, as `judge` takes it."""

    stable: bool
    signed_zeros: bool


@dataclass(frozen=True, slots=True)
class Port:
    """An implementation under test.

    `declared` tells whether `numerics` was given; else it is the preset "ieee".
    """

    name: str
    ops: Mapping[str, Callable[..., Any]]
    numerics: Numerics = PRESETS["ieee"]
    declared: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def get(self, attribute: str, default: Any = None) -> Any:
        """An optional attribute of ATTRIBUTES, or the default."""
        return self.attributes.get(attribute, default)

    @property
    def contract(self) -> Contract:
        """What a result must keep beside its values."""
        return Contract(
            stable=bool(self.get("stable")), signed_zeros=bool(self.get("signed_zeros"))
        )

    @property
    def device(self) -> str:
        """Where the port's tensors live: as declared, else the GPU if there is one."""
        declared = self.get("device")
        if declared is None:
            return "cuda" if torch.cuda.is_available() else "cpu"
        return str(declared)

    @property
    def models(self) -> tuple[str, ...]:
        """The models whose formulas the port has and no others; empty: any layer."""
        supports = self.get("supports")
        return tuple(getattr(supports, "models", None) or ())

    def check_device(self) -> None:
        """Raise ValueError where the port's device is a GPU and torch sees none."""
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"port {self.name!r}: device={self.device!r}, but torch sees no GPU "
                "here; run it where there is one"
            )

    def tactics(self, case: Case) -> tuple[Any, ...]:
        """The ways in which the port may run the case's op; (None,) if only one.

        A case that names a tactic has only that one; () where the port has no such.
        """
        offered = self.get("tactics")
        function = self.ops.get(case.op)
        if offered is None or function is None or not accepts(function, "tactic"):
            return (None,) if case.tactic is None else ()
        if case.tactic is None:
            return tuple(offered(case)) or (None,)
        return tuple(one for one in offered(case) if spelt(one) == case.tactic)

    def definition(self, layer: Layer) -> tuple[Layer, Numerics]:
        """What the port says it computes for `layer`, and in which arithmetic.

        Raises TypeError if its `declares` returns anything but a Layer and a Numerics.
        """
        declares = self.get("declares")
        if declares is None:
            return layer, self.numerics
        answer = declares(layer)
        if isinstance(answer, Layer):
            answer = (answer, self.numerics)
        if not (
            isinstance(answer, tuple)
            and len(answer) == 2
            and isinstance(answer[0], Layer)
            and isinstance(answer[1], Numerics)
        ):
            raise TypeError(
                f"port {self.name!r}: declares(layer) returned {answer!r}; return a "
                "Layer and a Numerics"
            )
        return answer

    def unsupported(self, case: Case) -> str | None:
        """Why the port declares that it does not support `case`; None if it does."""
        function = self.ops.get(case.op)
        if case.local is not None and function and not accepts(function, "local"):
            return f"{case.op} has no keyword `local`"
        alignment = self.get("alignment", 1)
        if case.memory == "offset" and alignment > 1:
            return f"alignment={alignment}, but memory=offset aligns to elements only"
        supports = self.get("supports")
        if supports is None:
            return None
        if isinstance(supports, Supports):
            # Without need no GPU is asked, for the sake of processes yet to be forked.
            arch = _arch_of(self.device) if supports.archs else None
            return supports.reason(case, arch)
        answer = supports(case)
        if answer is None or answer is True:
            return None
        return answer if isinstance(answer, str) and answer else "supports() is False"


def spelt(tactic: object) -> str:
    """A tactic as one word of a case."""
    return re.sub(r"[^A-Za-z0-9_.:+/-]+", "_", str(tactic)).strip("_") or "_"


def _arch_of(device: str) -> str | None:
    """The architecture of a GPU, like sm_90; None of a CPU, or of no GPU here."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def accepts(function: Callable[..., Any], keyword: str) -> bool:
    """Whether `function` has a parameter called `keyword`."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return keyword in parameters


def check_layouts(name: str, value: Any) -> None:
    """Raise unless `value` maps results and arguments to known layouts."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"port {name!r}: layouts={value!r} is a {type(value).__name__}; give a "
            "mapping of names to layouts"
        )
    known = {
        field.name for op in OPS.values() for field in (*op.arguments, *op.results)
    }
    for place, layout in value.items():
        op, _, rest = str(place).partition(".")
        if (rest if op in FUNCTIONS else op).partition(".")[0] not in known:
            raise ValueError(
                f"port {name!r}: layouts names {place!r}, which no op takes or "
                f"returns; {suggestion(str(place), sorted(known))}"
            )
        try:
            get(layout)
        except ValueError as error:
            raise ValueError(f"port {name!r}: {place}: {error}") from None
