"""From a name, a module, an object or a function to a port, its attributes checked."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from oracle.numerics import PRESETS
from refmoe.attributes import check_types, hint, public_names, reject_misspelt
from refmoe.port import ATTRIBUTES, Port, accepts
from refmoe.protocol import FUNCTIONS, OPS, Op, suggestion
from refmoe.supports import Supports, supports_of

#: Keywords that every op may have.
_KEYWORDS = ("out", "workspace", "taps", "tactic")
_HOME = Path(__file__).resolve().parent.parent
#: Files that are not the port's own.
_OTHERS = (
    "<",
    "/site-packages/",
    *(f"{_HOME}/{own}/" for own in ("refmoe", "oracle")),
)


def load(target: str) -> Port:
    """The port at "package.module" or "package.module:object".

    The current directory is searched last, after everything installed.

    Raises ValueError if the text, the object or its attributes are unfit, ImportError
    if the module cannot be imported.
    """
    module_name, _, path = target.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        near = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(
            f"port {target!r} is no module; write package.module or "
            f"package.module:object" + (f", here {near!r}" if near else "")
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    value: Any = _imported_module(target, module_name, here)
    for name in filter(None, path.split(".")):
        if not hasattr(value, name):
            raise ValueError(
                f"port {target!r}: {name!r} is not in {value!r}; "
                f"{suggestion(name, public_names(value))}"
            )
        value = getattr(value, name)
    return port_of(value, target)


def _imported_module(target: str, name: str, here: str) -> ModuleType:
    """The module called `name`; ImportError with what its own import raised, if so."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            stem = name.removesuffix(".py")
            raise ImportError(
                f"port {target!r}: there is no module {error.name!r}, neither "
                f"installed nor in {here}"
                + (f"; write {stem!r}" if stem != name else "")
            ) from None
        raise _broken(target, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(target, error) from error


def _broken(target: str, error: BaseException) -> ImportError:
    """What a port's own import raised, and the line of the port's that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(f in frame.filename for f in _OTHERS)]
    last = (own or frames)[-1]
    said = f": {error}" if str(error) else ""
    where = (
        "" if isinstance(error, SyntaxError) else f" ({last.filename}:{last.lineno})"
    )
    return ImportError(
        f"port {target!r} cannot be imported: {type(error).__name__}{said}{where}"
    )


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
    reject_misspelt(name, value, found)
    ops = {op: found[key] for key, op in FUNCTIONS.items() if key in found}
    if not ops:
        raise ValueError(f"port {name!r} offers no op; {hint(value)}")
    for op, function in ops.items():
        if not callable(function):
            raise TypeError(f"port {name!r}: {op}={function!r} is not callable")
        _check_call(name, OPS[op], function)
    attributes = {key: found[key] for key in ATTRIBUTES if key in found}
    check_types(name, attributes)
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
