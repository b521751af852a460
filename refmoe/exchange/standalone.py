"""Runs one recorded problem on a port; `refmoe script` copies this file into its own.

It needs torch and the standard library only.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import inspect
import os
import sys
import zlib
from typing import Any

import torch


class Record:
    """Attributes by name: a layer, its parts, a block format, params, blocks."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __repr__(self) -> str:
        fields = (f"{key}={value!r}" for key, value in vars(self).items())
        return f"Record({', '.join(fields)})"

    def __getitem__(self, index: Any) -> Record:
        """Blocks of some experts."""
        scale = self.global_scale
        if scale is not None and scale.ndim:
            scale = scale[index]
        return Record(
            codes=self.codes[index], scales=self.scales[index],
            global_scale=scale, format=self.format, shape=self.codes[index].shape,
        )  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this recorded problem has no {name!r}")


def decoded(value: Any) -> Any:
    """A recorded value: tensors and records are dicts with one marked key.

    Records are the classes that a port which imports refmoe expects, else plain ones.
    """
    if isinstance(value, tuple):
        return tuple(decoded(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        data = bytearray(zlib.decompress(base64.b85decode(value["tensor"])))
        kind = getattr(torch, value["dtype"])
        if not data:
            return torch.empty(value["shape"], dtype=kind)
        return torch.frombuffer(data, dtype=kind).reshape(value["shape"])
    fields = {key: decoded(item) for key, item in value["fields"].items()}
    module, _, name = value["type"].rpartition(".")
    if module in sys.modules:
        return getattr(sys.modules[module], name)(**fields)
    derived = {key: decoded(item) for key, item in value["derived"].items()}
    return Record(**fields, **derived)


def moved(value: Any, device: str) -> Any:
    """The value with its tensors on `device`."""
    if isinstance(value, torch.Tensor):
        return value.to(device, copy=True)
    if isinstance(value, Record):
        fields = {key: moved(item, device) for key, item in vars(value).items()}
        return Record(**fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        fields = {name: moved(getattr(value, name), device) for name in names}
        return dataclasses.replace(value, **fields)
    return value


def load(target: str) -> Any:
    """The port at "package.module" or "package.module:object"."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in filter(None, path.split(".")):
        found = getattr(found, name)
    return found


def called(port: Any, problem: dict[str, Any], device: str) -> tuple[Any, ...]:
    """What the port returns for the problem's arguments."""
    op = problem["op"]
    function = port if inspect.isroutine(port) else getattr(port, op)
    given = {key: decoded(value) for key, value in problem["arguments"].items()}
    given = {key: moved(value, device) for key, value in given.items()}
    known = inspect.signature(function).parameters
    keywords = {key: given.pop(key) for key in problem["keywords"] if key in given}
    if "prepared" in known:
        prepare = getattr(port, "prepare", None)
        params, layer = given["params"], given["layer"]
        keywords["prepared"] = prepare(params, layer) if prepare else None
    buffers = []
    if "out" in known:
        buffers = [
            torch.empty(want["shape"], dtype=getattr(torch, want["buffer"]))
            for want in problem["results"].values()
        ]
        buffers = [buffer.to(device) for buffer in buffers]
        keywords["out"] = buffers[0] if len(buffers) == 1 else tuple(buffers)
    keywords = {key: value for key, value in keywords.items() if key in known}
    with torch.no_grad():
        result = function(*given.values(), **keywords)
    if result is None:
        result = tuple(buffers)
    if hasattr(result, "codes"):
        result = (result.codes, result.scales, result.global_scale)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def misses(name: str, got: torch.Tensor, want: dict[str, Any]) -> int:
    """Print and count the elements that lie outside what may come."""
    value: torch.Tensor = decoded(want["value"])
    if tuple(got.shape) != tuple(value.shape):
        print(f"{name}: shape {tuple(got.shape)}, want {tuple(value.shape)}")
        return max(1, value.numel())
    got = got.view(torch.uint8) if got.dtype.itemsize == 1 else got
    got = got.detach().cpu()
    if not value.is_floating_point():
        if value.dtype.itemsize == got.dtype.itemsize:
            value = value.view(got.dtype)
        got, value = got.long(), value.long()
        low = high = value
        bad = got != value
    else:
        reach, got = decoded(want["worst"]), got.double()
        low, high = value - reach, value + reach
        error = (got - value).abs()
        same = (got == value) | (got.isnan() & value.isnan())
        # Where anything may come, the reach is infinite.
        bad = ~same & ~(error <= reach) & (reach != torch.inf)
    for place in bad.nonzero()[:5].tolist():
        index = tuple(place)
        print(
            f"{name}{place} = {got[index].item()!r}, want "
            f"{low[index].item()!r} to {high[index].item()!r}"
        )
    count = int(bad.sum())
    print(f"{name}: {count} of {bad.numel()} elements outside")
    return count


def main(problem: dict[str, Any]) -> int:
    """Run the problem on the port that is named; 1 if anything lies outside."""
    target = sys.argv[1] if len(sys.argv) > 1 else problem["port"]
    port = load(target)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    results = called(port, problem, getattr(port, "device", default))
    print(problem["case"])
    for note in problem["notes"]:
        print(f"note: {note}")
    bad = 0
    for (name, want), got in zip(problem["results"].items(), results, strict=False):
        bad += misses(name, got, want)
    return 1 if bad else 0
