"""CUDA text with every include expanded: one hash covers all that is compiled."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

ROOM = Path(__file__).parent
#: Toolkit headers that a kernel may include; anything else costs seconds to parse.
HEADERS = ("cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h")

_OWN = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[ \t]*$', re.MULTILINE)
_TOOLKIT = re.compile(r"^[ \t]*#[ \t]*include[ \t]*<([^>]+)>", re.MULTILINE)

#: Texts that stand in for files of that name.
_replaced: dict[str, str] = {}


@contextmanager
def replaced(texts: Mapping[str, str]) -> Iterator[None]:
    """Within it the files named have these texts, for what is not loaded yet."""
    global _replaced
    before, _replaced = _replaced, {**_replaced, **texts}
    try:
        yield
    finally:
        _replaced = before


def expand(name: str, room: Path = ROOM) -> str:
    """The text of `name` with each `#include "x.cuh"` replaced by that file, once.

    `#line` directives keep the compiler's messages pointing at the files themselves.
    A process reads each file once. Raises FileNotFoundError naming the including file,
    ValueError for a cycle.
    """
    return _expanded(name, room, tuple(_replaced.items()))


@lru_cache(maxsize=64)
def _expanded(name: str, room: Path, stand_ins: tuple[tuple[str, str], ...]) -> str:
    texts, done = dict(stand_ins), set[str]()

    def read(current: str, chain: tuple[str, ...]) -> str:
        if current in chain:
            raise ValueError(f"{' -> '.join((*chain, current))}: an include cycle")
        if current in done:
            return ""
        done.add(current)
        path = room / current
        if not path.is_file():
            where = f'{chain[-1]} includes "{current}"' if chain else current
            raise FileNotFoundError(f"{where}: no such file in {room}")
        text = texts.get(current) or path.read_text(encoding="utf-8")
        parts = [f'#line 1 "{current}"\n']
        start = 0
        for match in _OWN.finditer(text):
            parts.append(text[start : match.start()])
            parts.append(read(match[1], (*chain, current)))
            line = text.count("\n", 0, match.end()) + 2
            parts.append(f'#line {line} "{current}"')
            start = match.end()
        parts.append(text[start:])
        return "".join(parts)

    return read(name, ())


@lru_cache(maxsize=64)
def toolkit_headers(text: str) -> tuple[str, ...]:
    """The toolkit headers that `text` includes; ValueError for a foreign one."""
    names = tuple(dict.fromkeys(_TOOLKIT.findall(text)))
    for name in names:
        if name not in HEADERS:
            raise ValueError(
                f"kernel source includes <{name}>; only {', '.join(HEADERS)} are "
                "allowed"
            )
    return names


@lru_cache(maxsize=1)
def include_folder() -> Path:
    """The folder with the CUDA headers: of the runtime wheel, else of the toolkit.

    Raises RuntimeError naming the remedy when neither is there.
    """
    candidates = [Path("/usr/local/cuda/include")]
    for package, folder in (("nvidia.cu13", ""), ("nvidia.cuda_runtime", "")):
        try:
            spec = find_spec(package)
        except ModuleNotFoundError:
            continue
        for base in (spec.submodule_search_locations or ()) if spec else ():
            candidates.insert(0, Path(base) / folder / "include")
    for candidate in candidates:
        if (candidate / "cuda_fp16.h").is_file():
            return candidate
    raise RuntimeError(
        "no CUDA headers found; install them with `pip install nvidia-cuda-runtime` "
        "(CUDA 12: nvidia-cuda-runtime-cu12) or the CUDA toolkit in /usr/local/cuda"
    )


@lru_cache(maxsize=8)
def header_digest(names: tuple[str, ...]) -> str:
    """A hash over the toolkit headers `names` and the .hpp bodies beside them."""
    digest = hashlib.sha256()
    for name in names:
        header = include_folder() / name
        for path in (header, header.with_suffix(".hpp")):
            if path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()
