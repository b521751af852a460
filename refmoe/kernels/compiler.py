"""NVRTC through cuda.bindings: source text in, machine code and a usage report out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from refmoe.kernels.source import expand, include_folder, toolkit_headers

#: Architectures with machine code of their own.
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a")
#: PTX that the driver finishes: for any other GPU, or an older code path on a newer.
PORTABLE = ("compute_80", "compute_86", "compute_89")

#: No flush-to-zero, no fast-math, no contraction: kernels write fmaf where it is meant.
OPTIONS = ("-std=c++17", "-fmad=false", "--ptxas-options=-v")

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_FRAME = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
_USED = re.compile(r"Used (\d+) registers(.*)")
_SHARED = re.compile(r"(\d+) bytes smem")
_SERIALISED = re.compile(r".*\bC75\d\d\b.*")


class CompileError(RuntimeError):
    """A kernel did not compile; the message carries the compiler's log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kernel takes of a multiprocessor, as ptxas reports it."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True, slots=True)
class Image:
    """A compiled program: its code, the lowered name of every expression, its usage.

    `usage` goes by expression and is empty for PTX, which no assembler has seen yet;
    `warnings` are lines of the compiler's log.
    """

    target: str
    code: bytes
    names: dict[str, str]
    usage: dict[str, Usage]
    warnings: tuple[str, ...]


def target_of(major: int, minor: int) -> str:
    """The compile target for a GPU of compute capability `major`.`minor`.

    >>> target_of(9, 0), target_of(8, 7)
    ('sm_90a', 'compute_80')
    """
    if major < 8:
        raise RuntimeError(
            f"this GPU has compute capability {major}.{minor}; the kernels need 8.0 "
            "(A100) or newer"
        )
    own = {name.removeprefix("sm_").rstrip("a"): name for name in ARCHITECTURES}
    return own.get(f"{major}{minor}", "compute_80")


def nvrtc() -> Any:
    """The module cuda.bindings.nvrtc; RuntimeError with the remedy without it."""
    try:
        from cuda.bindings import nvrtc as module
    except ImportError as error:
        raise RuntimeError(
            "cuda.bindings is missing, which compiles the kernels; install "
            "`refmoe[cuda13]` (or [cuda12])"
        ) from error
    return module


def version() -> tuple[int, int]:
    """NVRTC's version; RuntimeError with the remedy when its library does not load."""
    api = nvrtc()
    try:
        _, major, minor = api.nvrtcVersion()
    except Exception as error:  # cuda.bindings raises its own kinds by release
        raise RuntimeError(
            f"the NVRTC library does not load ({error}); install it with "
            "`pip install nvidia-cuda-nvrtc` (CUDA 12: nvidia-cuda-nvrtc-cu12)"
        ) from error
    return major, minor


def check_target(target: str) -> None:
    """Raise unless `target` is one of ours and this NVRTC can compile for it."""
    if target not in ARCHITECTURES + PORTABLE:
        raise ValueError(
            f"target={target!r} is unknown; use one of "
            f"{', '.join(ARCHITECTURES + PORTABLE)}"
        )
    major, minor = version()
    _, numbers = nvrtc().nvrtcGetSupportedArchs()
    if int(re.sub(r"\D", "", target)) not in numbers:
        known = ", ".join(f"sm_{number}" for number in numbers)
        raise RuntimeError(
            f"NVRTC {major}.{minor} cannot compile for {target}; it knows {known}. "
            "Install a newer nvidia-cuda-nvrtc, or set REFMOE_TARGET=compute_80 to let "
            "the driver translate"
        )


def compile_file(file: str, expressions: tuple[str, ...], target: str) -> Image:
    """Compile `expressions` (kernels, template instances) of a .cu of this room."""
    return compile_text(expand(file), expressions, target, file)


def compile_text(
    text: str, expressions: tuple[str, ...], target: str, name: str = "kernel.cu"
) -> Image:
    """Compile expanded CUDA text.

    Raises CompileError for errors and for warnings of the class C75xx: they say that
    register hints or the overlap of matrix instructions were given up.
    """
    check_target(target)
    api = nvrtc()
    # NVRTC's own disk cache does not tell -ftz, -prec-div and -prec-sqrt apart.
    options = [f"-arch={target}", *OPTIONS, "-no-cache"]
    if toolkit_headers(text):
        options.append(f"-I{include_folder()}")
    _, program = api.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], [])
    try:
        for expression in expressions:
            api.nvrtcAddNameExpression(program, expression.encode())
        status = _compile(api, program, options)
        if status == api.nvrtcResult.NVRTC_ERROR_INVALID_OPTION:
            # A release from before that cache does not know its switch either.
            options.remove("-no-cache")
            status = _compile(api, program, options)
        log = _text(program, api.nvrtcGetProgramLogSize, api.nvrtcGetProgramLog)
        if status != api.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"{name} for {target}: {status.name}\n{log}")
        if lost := _SERIALISED.findall(log):
            raise CompileError(f"{name} for {target}: " + "\n".join(lost))
        lowered = {}
        for expression in expressions:
            _, mangled = api.nvrtcGetLoweredName(program, expression.encode())
            lowered[expression] = mangled.decode()
        if target.startswith("compute_"):
            code = _bytes(program, api.nvrtcGetPTXSize, api.nvrtcGetPTX)
        else:
            code = _bytes(program, api.nvrtcGetCUBINSize, api.nvrtcGetCUBIN)
    finally:
        api.nvrtcDestroyProgram(program)
    warnings = tuple(line for line in log.splitlines() if "warning" in line)
    return Image(target, code, lowered, parse_usage(log, lowered), warnings)


def parse_usage(log: str, names: dict[str, str]) -> dict[str, Usage]:
    """Read registers, stack, spills and static shared memory out of ptxas' report."""
    by_mangled: dict[str, Usage] = {}
    entry, frame = "", (0, 0, 0)
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry, frame = match[1], (0, 0, 0)
        elif match := _FRAME.search(line):
            # A kernel's own frame comes first, those of functions it calls follow.
            stack, stores, loads = map(int, match.groups())
            frame = (frame[0] + stack, frame[1] + stores, frame[2] + loads)
        elif match := _USED.search(line):
            shared = _SHARED.search(match[2])
            taken = int(shared[1]) if shared else 0
            by_mangled[entry] = Usage(int(match[1]), *frame, taken)
    return {
        expression: by_mangled[mangled]
        for expression, mangled in names.items()
        if mangled in by_mangled
    }


def _compile(api: Any, program: Any, options: list[str]) -> Any:
    encoded = [option.encode() for option in options]
    return api.nvrtcCompileProgram(program, len(encoded), encoded)[0]


def _bytes(program: Any, size_of: Any, fill: Any) -> bytes:
    _, size = size_of(program)
    buffer = bytes(size)
    fill(program, buffer)
    return buffer


def _text(program: Any, size_of: Any, fill: Any) -> str:
    return _bytes(program, size_of, fill).decode(errors="replace")
