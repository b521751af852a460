"""A port's attributes checked: none misspelt, none of a wrong type."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch

from oracle.numerics import Numerics
from oracle.trace import TAPS
from refmoe.port import ATTRIBUTES, check_layouts
from refmoe.protocol import FUNCTIONS, OPS, suggestion
from refmoe.supports import Supports

_FUNCTIONS = ("declares", "prepare", "workspace", "tactics", "on_arch")
_FLAGS = ("stable", "signed_zeros", "deterministic", "graph_safe", "batch_invariant")


def public_names(value: Any) -> list[str]:
    """What an object or a module shows, in alphabetical order."""
    return [name for name in dir(value) if not name.startswith("_")]


def reject_misspelt(name: str, value: Any, found: Mapping[str, Any]) -> None:
    """Raise for public names that are almost an op or an attribute that is absent."""
    known = (*FUNCTIONS, *ATTRIBUTES)
    if isinstance(value, Mapping) or inspect.isroutine(value):
        unknown = [key for key in found if key not in known]
        for key in unknown:
            raise ValueError(
                f"port {name!r}: {key!r} is no op and no attribute of a port; "
                f"{suggestion(key, known)}"
            )
        return
    absent = [key for key in known if key not in found]
    for key in public_names(value):
        if key in known or _imported(value, key):
            continue
        close = get_close_matches(key, absent, n=1, cutoff=0.8)
        if close and _meant(getattr(value, key), close[0]):
            raise ValueError(
                f"port {name!r}: {key!r} is no op and no attribute of a port; did you "
                f"mean {close[0]!r}? A helper's name begins with an underscore"
            )


def hint(value: Any) -> str:
    """What to define, or which public name was perhaps meant as an op."""
    for key in public_names(value):
        close = get_close_matches(key, FUNCTIONS, n=1, cutoff=0.7)
        if close and not _imported(value, key):
            return f"did you mean {close[0]!r} by {key!r}?"
    return f"define at least one of {', '.join(FUNCTIONS)}"


def _meant(item: Any, name: str) -> bool:
    """Whether `item` may be a misspelt `name`: for an op, by its parameters' names."""
    if name not in FUNCTIONS:
        return isinstance(item, bool) if name in _FLAGS else True
    if not callable(item):
        return False
    wanted = [field.name for field in OPS[FUNCTIONS[name]].arguments]
    try:
        return list(inspect.signature(item).parameters)[: len(wanted)] == wanted
    except (TypeError, ValueError):
        return False


def _imported(value: Any, key: str) -> bool:
    """Whether a module merely imports `key` from elsewhere."""
    item = getattr(value, key)
    if isinstance(item, ModuleType):
        return True
    if not (inspect.isroutine(item) or isinstance(item, type)):
        return False
    return isinstance(value, ModuleType) and item.__module__ != value.__name__


def _is_device(value: Any) -> bool:
    try:
        return torch.device(value) is not None
    except (RuntimeError, TypeError):
        return False


def check_types(name: str, attributes: Mapping[str, Any]) -> None:
    def wrong(key: str, want: str) -> TypeError:
        value = attributes[key]
        return TypeError(
            f"port {name!r}: {key}={value!r} is a {type(value).__name__}; give {want}"
        )

    for key, value in attributes.items():
        if key in _FUNCTIONS and not callable(value):
            raise wrong(key, "a function")
        if key == "supports" and not (
            callable(value) or isinstance(value, Mapping | Supports)
        ):
            raise wrong(key, "a refmoe.Supports, its fields by name, or a function")
        if key == "device" and not _is_device(value):
            raise ValueError(
                f"port {name!r}: device={value!r} is no device of torch; give 'cuda' "
                "or 'cpu'"
            )
        if key == "alignment" and (not isinstance(value, int) or value < 1):
            raise wrong(key, "a number of bytes from 1 on")
        if key in _FLAGS and not isinstance(value, bool):
            if key != "graph_safe":
                raise wrong(key, "True or False")
            if not isinstance(value, tuple):
                raise wrong(key, "True, False or a tuple of ops and tactics")
        if key == "numerics" and not isinstance(value, Numerics | str):
            raise wrong(key, "a refmoe.Numerics or the name of a preset")
        if key == "layouts":
            check_layouts(name, value)
        if key in ("taps", "mutates"):
            listed = not isinstance(value, str)
            if not listed or not all(isinstance(item, str) for item in value):
                raise wrong(key, "a tuple of names")
    for tap in attributes.get("taps", ()):
        if tap not in TAPS:
            raise ValueError(
                f"port {name!r}: no tap is called {tap!r}; {suggestion(tap, TAPS)}"
            )
