"""Frozen descriptions as JSON and back: every field by its declared type, no code."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_SCALARS = (str, bool, int, float, type(None))


def encoded(value: Any) -> Any:
    """Plain JSON of a description; functions in it are left out.

    Raises TypeError for what is neither a dataclass, a container nor a scalar.
    """
    if isinstance(value, _SCALARS):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: encoded(item) for name, item in fields if not callable(item)}
    if isinstance(value, Mapping):
        return {str(name): encoded(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [encoded(item) for item in value]
    raise TypeError(f"{value!r} is a {type(value).__name__}; it cannot be sent as JSON")


def decoded(kind: type[T], data: Any) -> T:
    """The description of type `kind` that `data` spells.

    Raises ValueError naming the field that has another type than declared, or whatever
    the description itself refuses.
    """
    found: T = _decoded(kind, data, kind.__name__)
    return found


def _decoded(kind: Any, data: Any, where: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(parts, data, where)
    if origin is Literal:
        if data in parts and isinstance(data, str):
            return data
    elif origin is tuple:
        if isinstance(data, list):
            if len(parts) == 2 and parts[1] is Ellipsis:
                parts = (parts[0],) * len(data)
            if len(parts) == len(data):
                pairs = zip(parts, data, strict=True)
                return tuple(_decoded(part, item, where) for part, item in pairs)
    elif origin in (Mapping, dict) or origin is types.MappingProxyType:
        if isinstance(data, dict):
            return {
                name: _decoded(parts[1], item, f"{where}.{name}")
                for name, item in data.items()
            }
    elif dataclasses.is_dataclass(kind):
        if isinstance(data, dict):
            return _built(kind, data, where)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        if data in [item.value for item in kind]:
            return kind(data)
    elif kind is object:
        if isinstance(data, _SCALARS):
            return data
    elif kind is float:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return data
    elif kind in _SCALARS and type(data) is kind:
        return data
    raise ValueError(f"{where}={data!r} is no {getattr(kind, '__name__', kind)}")


def _one_of(parts: tuple[Any, ...], data: Any, where: str) -> Any:
    for part in parts:
        try:
            return _decoded(part, data, where)
        except ValueError as error:
            reason = error
    raise reason


def _built(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = _hints(kind)
    unknown = [name for name in data if name not in hints]
    if unknown:
        raise ValueError(f"{where} has no field {unknown[0]!r}")
    given = {
        name: _decoded(hints[name], item, f"{where}.{name}")
        for name, item in data.items()
    }
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
