"""Vectors: inputs with the answer, why it is the answer, and who answers otherwise.

A file holds ``schema`` 1, ``about``, ``notes`` (flag -> class, effect, reference) and
``vectors``. A vector has an ``id``, an ``operation`` with its ``arguments``, ``inputs``
and ``expected`` tensors, ``flags`` into the notes, ``who_is_right``:

* ``oracle``: the expected answer is right, what `peers` record is a mistake;
* ``policy``: several named answers are legitimate (``result`` is then ``policy`` too);

and ``peers``: what they answer instead. A tensor is a type and hexadecimal words, most
significant digit first; ``word*n`` repeats. The form follows Wycheproof.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import torch

#: Word bits, the integer type that holds them, and the type that they are viewed as.
_TYPES: dict[str, tuple[int, torch.dtype, torch.dtype]] = {
    "u8": (8, torch.uint8, torch.uint8),
    "i8": (8, torch.int8, torch.int8),
    "i16": (16, torch.int16, torch.int16),
    "i32": (32, torch.int32, torch.int32),
    "bf16": (16, torch.int16, torch.bfloat16),
    "fp16": (16, torch.int16, torch.float16),
    "fp32": (32, torch.int32, torch.float32),
    "fp64": (64, torch.int64, torch.float64),
}
_NEEDED = {
    "id", "operation", "arguments", "inputs", "expected", "result", "flags",
    "who_is_right",
}  # fmt: skip
_KNOWN = _NEEDED | {"peers", "comment"}
_NOTE = {"class", "effect", "reference"}


@dataclass(frozen=True, slots=True)
class Vector:
    """One case; tensors are decoded."""

    id: str
    operation: str
    arguments: Mapping[str, Any]
    inputs: Mapping[str, torch.Tensor]
    expected: Mapping[str, torch.Tensor]
    flags: tuple[str, ...]
    who_is_right: str
    peers: Mapping[str, Mapping[str, torch.Tensor]]
    comment: str


@lru_cache(maxsize=8)
def load(name: str) -> tuple[Vector, ...]:
    """The vectors of one file, checked; raises ValueError where it breaks the schema.

    >>> load("formats")[0].expected["codes"].dtype
    torch.uint8
    """
    path = resources.files("oracle") / "vectors" / f"{name}.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    check(document)
    return tuple(
        Vector(
            entry["id"],
            entry["operation"],
            entry["arguments"],
            _tensors(entry["inputs"]),
            _tensors(entry["expected"]),
            tuple(entry["flags"]),
            entry["who_is_right"],
            {peer: _tensors(got) for peer, got in entry.get("peers", {}).items()},
            entry.get("comment", ""),
        )
        for entry in document["vectors"]
    )


def tensor(entry: Mapping[str, str]) -> torch.Tensor:
    """The tensor of a type and its hexadecimal words.

    >>> tensor({"type": "fp32", "hex": "40a00000 00000000*2"}).tolist()
    [5.0, 0.0, 0.0]
    """
    if set(entry) != {"type", "hex"} or entry["type"] not in _TYPES:
        raise ValueError(
            f"vectors: {dict(entry)!r} is no tensor; give a type of "
            f"{', '.join(_TYPES)} and hex words"
        )
    bits, integer, kind = _TYPES[entry["type"]]
    words: list[int] = []
    for item in entry["hex"].split():
        word, _, count = item.partition("*")
        if len(word) != bits // 4:
            raise ValueError(
                f"vectors: the word {word!r} has {len(word)} digits; {entry['type']} "
                f"has {bits // 4}"
            )
        words += [int(word, 16)] * int(count or 1)
    if integer is not torch.uint8:
        words = [word - (word >> (bits - 1) << bits) for word in words]
    return torch.tensor(words, dtype=integer).view(kind)


def check(document: Mapping[str, Any]) -> None:
    """Raise ValueError naming the first place where `document` breaks the schema."""
    if document.get("schema") != 1:
        raise ValueError(f"vectors: schema {document.get('schema')!r}; this reads 1")
    notes = document["notes"]
    for flag, note in notes.items():
        if set(note) != _NOTE or not all(note.values()):
            raise ValueError(f"vectors: note {flag} needs {', '.join(sorted(_NOTE))}")
    seen: set[str] = set()
    used: set[str] = set()
    for entry in document["vectors"]:
        name = entry.get("id", "without an id")
        missing, extra = _NEEDED - set(entry), set(entry) - _KNOWN
        if missing or extra:
            raise ValueError(
                f"vectors: {name} lacks {sorted(missing)} and has unknown "
                f"{sorted(extra)}"
            )
        if name in seen:
            raise ValueError(f"vectors: two vectors are called {name}")
        if not entry["flags"] or not set(entry["flags"]) <= set(notes):
            raise ValueError(f"vectors: {name} needs flags out of the notes")
        pair = entry["result"], entry["who_is_right"]
        if pair not in (("valid", "oracle"), ("policy", "policy")):
            raise ValueError(
                f"vectors: {name} has result and who_is_right {pair}; they are valid "
                "and oracle, or both policy"
            )
        seen.add(name)
        used.update(entry["flags"])
    if used != set(notes):
        raise ValueError(f"vectors: no vector uses {sorted(set(notes) - used)}")


def _tensors(entries: Mapping[str, Mapping[str, str]]) -> dict[str, torch.Tensor]:
    return {name: tensor(entry) for name, entry in entries.items()}
