"""Compiled kernels on disk, under a key that covers every byte that made them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from refmoe.kernels import compiler
from refmoe.kernels.compiler import Image, Usage
from refmoe.kernels.source import expand, header_digest, toolkit_headers


def folder() -> Path:
    """Where kernels are kept: $REFMOE_CACHE_DIR, else refmoe in the XDG cache."""
    if own := os.environ.get("REFMOE_CACHE_DIR"):
        return Path(own) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "refmoe" / "kernels"


def key(file: str, expressions: tuple[str, ...], target: str) -> str:
    """The hash of expanded text, toolkit headers, compiler, options and names."""
    text = expand(file)
    parts = (
        text,
        header_digest(toolkit_headers(text)),
        f"nvrtc {compiler.version()}",
        target,
        *compiler.OPTIONS,
        *expressions,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def fetch(file: str, expressions: tuple[str, ...], target: str) -> tuple[Path, Image]:
    """The compiled program and the file that holds its code, from disk or just built.

    Processes and threads may race: each writes files of its own and renames them into
    place, code before description, and a description whose hash does not fit its code
    counts as absent.
    """
    found = find(file, expressions, target)
    if found is not None:
        return found
    code_path = _path(file, expressions, target)
    image = compiler.compile_file(file, expressions, target)
    description = {
        "file": file,
        "target": target,
        "sha256": hashlib.sha256(image.code).hexdigest(),
        "names": image.names,
        "usage": {name: asdict(usage) for name, usage in image.usage.items()},
        "warnings": image.warnings,
    }
    _write(code_path, image.code)
    _write(code_path.with_suffix(".json"), json.dumps(description, indent=1).encode())
    return code_path, image


def find(
    file: str, expressions: tuple[str, ...], target: str
) -> tuple[Path, Image] | None:
    """What `fetch` gives, if it is on disk already."""
    code_path = _path(file, expressions, target)
    found = _read(code_path, target)
    return None if found is None else (code_path, found)


def _path(file: str, expressions: tuple[str, ...], target: str) -> Path:
    ending = "ptx" if target.startswith("compute") else "cubin"
    return folder() / f"{key(file, expressions, target)}.{ending}"


def _read(code_path: Path, target: str) -> Image | None:
    try:
        code = code_path.read_bytes()
        description = json.loads(code_path.with_suffix(".json").read_bytes())
        if description["sha256"] != hashlib.sha256(code).hexdigest():
            return None
        usage = {name: Usage(**taken) for name, taken in description["usage"].items()}
        warnings = tuple(description["warnings"])
        return Image(target, code, description["names"], usage, warnings)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
