"""What a port declares, as JSON: said by the worker, read without trust."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from oracle.numerics import Numerics
from oracle.spec import Layer
from refmoe.case import Case
from refmoe.port import ATTRIBUTES, Port
from refmoe.protocol import OPS
from refmoe.supports import Supports
from refmoe.worker.channel import Frame, Garbled
from refmoe.worker.codec import decoded, encoded


def facts_frame(port: Port) -> Frame:
    """Everything about a port that is no tensor and no code."""
    attributes: dict[str, Any] = {}
    for name, value in port.attributes.items():
        if name == "numerics":
            continue
        if isinstance(value, Supports):
            attributes[name] = {"supports": encoded(value)}
        elif callable(value):
            attributes[name] = {"function": True}
        else:
            try:
                attributes[name] = {"value": encoded(value)}
            except TypeError:
                attributes[name] = {"value": str(value)}
    return {
        "ops": {op: _parameters(function) for op, function in port.ops.items()},
        "numerics": encoded(port.numerics),
        "declared": port.declared,
        "device": port.device,
        "attributes": attributes,
    }


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def facts_of(name: str, frame: Any, link: Link) -> RemotePort:
    """The port that `facts_frame` described; raises Garbled."""
    try:
        ops = {str(op): _stub(str(op), names) for op, names in frame["ops"].items()}
        unknown = [op for op in ops if op not in OPS]
        attributes = {
            key: _attribute(key, item) for key, item in frame["attributes"].items()
        }
        unknown += [key for key in attributes if key not in ATTRIBUTES]
        if unknown:
            raise ValueError(f"no port has {unknown[0]!r}")
        attributes["device"] = str(frame["device"])
        numerics = decoded(Numerics, frame["numerics"])
        declared = bool(frame["declared"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Garbled(f"facts of {name} that make no port: {error}") from None
    ops_, attributes_ = MappingProxyType(ops), MappingProxyType(attributes)
    return RemotePort(name, ops_, numerics, declared, attributes_, link=link)


def _attribute(name: str, item: Mapping[str, Any]) -> Any:
    ((kind, value),) = item.items()
    if kind == "function":
        return _stub(name, [])
    if kind == "supports":
        return decoded(Supports, value)
    return tuple(value) if isinstance(value, list) else value


def _stub(name: str, parameters: Sequence[str]) -> Callable[..., Any]:
    """Something with the parameters of a function that lives elsewhere."""

    def elsewhere(*arguments: Any, **keywords: Any) -> Any:
        raise RuntimeError(f"{name} lives in a worker; call it through the runner")

    kind = inspect.Parameter.KEYWORD_ONLY
    parts = [inspect.Parameter(part, kind) for part in parameters]
    vars(elsewhere)["__signature__"] = inspect.Signature(parts)
    return elsewhere


class Link(Protocol):
    """Where the port of another process answers questions."""

    def tactics(self, port: RemotePort, case: Case) -> tuple[Any, ...]:
        """See `Port.tactics`."""

    def definition(self, port: RemotePort, layer: Layer) -> tuple[Layer, Numerics]:
        """See `Port.definition`."""

    def unsupported(self, port: RemotePort, case: Case) -> str | None:
        """See `Port.unsupported`."""


@dataclass(frozen=True, slots=True)
class Tactic:
    """A tactic of a port in another process: its place among those of a case."""

    index: int
    text: str

    def __str__(self) -> str:
        return self.text


class RemotePort(Port):
    """A port that lives in a worker; what it declares stands here.

    Its ops and the functions among its attributes have signatures, and raise when
    called.
    """

    __slots__ = ("link",)
    link: Link

    def __init__(self, *fields: Any, link: Link) -> None:
        super().__init__(*fields)
        object.__setattr__(self, "link", link)

    def tactics(self, case: Case) -> tuple[Any, ...]:
        """The ways in which the port may run the case's op; (None,) if only one."""
        return self.link.tactics(self, case)

    def definition(self, layer: Layer) -> tuple[Layer, Numerics]:
        """What the port says it computes for `layer`, and in which arithmetic."""
        return self.link.definition(self, layer)

    def unsupported(self, case: Case) -> str | None:
        """Why the port declares that it does not support `case`; None if it does."""
        return self.link.unsupported(self, case)
