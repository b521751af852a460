"""From a name, a module, an object or a function to a port, its attributes checked."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType, ModuleType
from typing import Any

from oracle.numerics import PRESETS, Numerics
from oracle.trace import TAPS
from refmoe.port import ATTRIBUTES, Port, accepts, check_layouts
from refmoe.protocol import FUNCTIONS, OPS, Op, suggestion
from refmoe.supports import Supports, supports_of

#: Keywords that every op may have.
_KEYWORDS = ("out", "workspace", "taps", "tactic")
_FUNCTIONS = ("declares", "prepare", "workspace", "tactics")
_FLAGS = ("stable", "deterministic", "graph_safe", "batch_invariant")


def load(target: str) -> Port:
    """The port at "package.module" or "package.module:object".

    The current directory is searched last, after everything installed.

    Raises ValueError if the text, the object or its attributes are unfit, ImportError
    if the module cannot be imported.
    """
    module_name, _, path = target.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        hint = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(
            f"port {target!r} is no module; write package.module or "
            f"package.module:object" + (f", here {hint!r}" if hint else "")
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ImportError(
            f"port {target!r}: there is no module {error.name!r}, neither installed "
            f"nor in {here}"
        ) from None
    for name in filter(None, path.split(".")):
        if not hasattr(value, name):
            raise ValueError(
                f"port {target!r}: {name!r} is not in {value!r}; "
                f"{suggestion(name, _public(value))}"
            )
        value = getattr(value, name)
    return port_of(value, target)


def port_of(value: Any, name: str | None = None) -> Port:
    """A port from a module, an object, a mapping of names, or one function.

    A function implements the op that bears its name.

    Raises ValueError if it offers no op, misspells an op or an attribute, or its
    `supports` names what there is not; TypeError if an attribute has the wrong type.
    """
    if isinstance(value, Port):
        return value
    found = _attributes_of(value)
    name = str(
        name or found.get("name") or getattr(value, "__name__", type(value).__name__)
    )
    _reject_misspelt(name, value, found)
    ops = {op: found[key] for key, op in FUNCTIONS.items() if key in found}
    if not ops:
        raise ValueError(f"port {name!r} offers no op; {_hint(value)}")
    for op, function in ops.items():
        if not callable(function):
            raise TypeError(f"port {name!r}: {op}={function!r} is not callable")
        _check_call(name, OPS[op], function)
    attributes = {key: found[key] for key in ATTRIBUTES if key in found}
    _check_types(name, attributes)
    if isinstance(attributes.get("supports"), Mapping | Supports):
        attributes["supports"] = supports_of(attributes["supports"])
    numerics = attributes.get("numerics")
    if isinstance(numerics, str):
        if numerics not in PRESETS:
            raise ValueError(
                f"port {name!r}: no numerics are called {numerics!r}; "
                f"{suggestion(numerics, PRESETS)}"
            )
        numerics = PRESETS[numerics]
    return Port(
        name,
        MappingProxyType(ops),
        numerics or PRESETS["ieee"],
        numerics is not None,
        MappingProxyType(attributes),
    )


def _check_call(name: str, op: Op, function: Callable[..., Any]) -> None:
    """Raise ValueError unless `function` can be called as the op is."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    offered = [key for key in (*op.keywords, *_KEYWORDS) if accepts(function, key)]
    try:
        signature.bind(*op.arguments, **dict.fromkeys(offered))
    except TypeError as error:
        arguments = ", ".join(field.name for field in op.arguments)
        raise ValueError(
            f"port {name!r}: {op.name}{signature} cannot be called as "
            f"{op.name}({arguments}): {error}; keywords it may have are "
            f"{', '.join((*op.keywords, *_KEYWORDS))}"
        ) from None


def _public(value: Any) -> list[str]:
    return [name for name in dir(value) if not name.startswith("_")]


def _attributes_of(value: Any) -> dict[str, Any]:
    """Ops and attributes by name; a module's `__all__`, where it has one, limits them.

    What a module imports from the oracle is a helper, whatever it is called.
    """
    if isinstance(value, Mapping):
        return {str(name).replace("+", "_"): item for name, item in value.items()}
    if inspect.isroutine(value):
        return {value.__name__: value}
    known = [name for name in (*FUNCTIONS, *ATTRIBUTES) if hasattr(value, name)]
    if isinstance(value, ModuleType):
        listed = getattr(value, "__all__", known)
        known = [name for name in known if name in listed or name in ATTRIBUTES]
    found = {name: getattr(value, name) for name in known}
    return {
        name: item
        for name, item in found.items()
        if not (
            name in FUNCTIONS
            and str(getattr(item, "__module__", "")).startswith("oracle.")
        )
    }


def _reject_misspelt(name: str, value: Any, found: Mapping[str, Any]) -> None:
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
    for key in _public(value):
        if key in known or _imported(value, key):
            continue
        close = get_close_matches(key, absent, n=1, cutoff=0.84)
        if close and _meant(getattr(value, key), close[0]):
            raise ValueError(
                f"port {name!r}: {key!r} is no op and no attribute of a port; did you "
                f"mean {close[0]!r}? A helper's name begins with an underscore"
            )


def _hint(value: Any) -> str:
    """What to define, or which public name was perhaps meant as an op."""
    for key in _public(value):
        close = get_close_matches(key, FUNCTIONS, n=1, cutoff=0.7)
        if close and not _imported(value, key):
            return f"did you mean {close[0]!r} by {key!r}?"
    return f"define at least one of {', '.join(FUNCTIONS)}"


def _meant(item: Any, name: str) -> bool:
    """Whether `item` may be a misspelt `name`: for an op, by its parameters' names."""
    if name not in FUNCTIONS:
        return True
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


def _check_types(name: str, attributes: Mapping[str, Any]) -> None:
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
