"""What a run under pytest is told, by options or by REFMOE_* variables."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pytest

#: Option `--refmoe-NAME` and variable REFMOE_NAME, with what each says.
OPTIONS = {
    "impl": "the port: package.module or package.module:object",
    "profile": "quick, ci or deep; quick by default",
    "seed": "first seed of every cell; 0 by default",
    "models": "models, with commas between them, or all",
    "formats": "block formats, with commas between them, or all",
    "regimes": "regimes, with commas between them",
    "expected_failures": "TOML file of known failures; see refmoe.expected",
    "least": "fewest cases that must be decided for the run to pass; 1 by default",
    "in_process": "run ports in the process of the tests, to debug them",
    "deadline": "seconds that a call may take; 30 by default",
    "compile_deadline": "the same for the first call of an op; 180 by default",
    "json": "write the certificate to this file",
    "html": "write the report, one page, to this file",
}
#: Options without a value; 1 as a variable.
_FLAGS = ("in_process",)
#: Variables that other parts of refmoe read.
ELSEWHERE = ("REFMOE_TARGET", "REFMOE_CACHE_DIR", "REFMOE_TACTICS")


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is run: cases of a cell, hearings of a law, examples of a hunt.

    `study` is the time in seconds for what lies behind the first failure of an op.
    """

    name: str
    cases: int
    hearings: int
    examples: int
    study: float


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("quick", 1, 1, 10, 10.0), Profile("ci", 4, 2, 100, 30.0),
        Profile("deep", 16, 8, 2000, 120.0),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of a run, checked; empty where nothing narrows it."""

    port: str | None = None
    profile: Profile = PROFILES["quick"]
    seed: int = 0
    models: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()
    expected_failures: Path | None = None
    least: int = 1
    in_process: bool = False
    deadline: float = 30.0
    compile_deadline: float = 180.0
    json: Path | None = None
    html: Path | None = None


def add_options(parser: pytest.Parser) -> None:
    """Register every option with pytest."""
    group = parser.getgroup("refmoe", "verification of Mixture-of-Experts kernels")
    for name, about in OPTIONS.items():
        flags = [_flag(name)]
        if name == "expected_failures":
            flags.append("--expected-failures")
        kind: dict[str, str] = {"metavar": name.upper()}
        if name in _FLAGS:
            kind = {"action": "store_const", "const": "1"}
        group.addoption(
            *flags, dest=f"refmoe_{name}", default=None,
            help=f"{about} (or ${_variable(name)})", **kind,
        )  # fmt: skip


def given(config: pytest.Config, environment: Mapping[str, str] | None = None) -> bool:
    """Whether any option or variable concerns refmoe."""
    environment = os.environ if environment is None else environment
    return any(name.startswith("REFMOE_") for name in environment) or any(
        config.getoption(f"refmoe_{name}", None) is not None for name in OPTIONS
    )


def read(
    config: pytest.Config, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings: an option counts before its variable.

    Raises UsageError for a REFMOE_* variable that does not exist, naming the closest,
    and for a value that is not one of those possible.
    """
    environment = os.environ if environment is None else environment
    known = [*map(_variable, OPTIONS), *ELSEWHERE]
    for name in environment:
        if name.startswith("REFMOE_") and name not in known:
            close = get_close_matches(name, known, n=1, cutoff=0.6)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            )
            raise pytest.UsageError(f"refmoe: there is no variable {name}; {hint}")
    values: dict[str, Any] = {}
    for name in OPTIONS:
        text = config.getoption(f"refmoe_{name}", None)
        source = _flag(name)
        if text is None:
            text, source = environment.get(_variable(name)), _variable(name)
        if text:
            values["port" if name == "impl" else name] = _value(name, source, text)
    return Settings(**values)


def _value(name: str, source: str, text: str) -> Any:
    if name == "profile":
        if text not in PROFILES:
            known = ", ".join(PROFILES)
            raise pytest.UsageError(f"refmoe: {source}={text!r} is not one of {known}")
        return PROFILES[text]
    if name in ("seed", "least"):
        if not text.isdecimal() or len(text) > 18:
            raise pytest.UsageError(f"refmoe: {source}={text!r} is no whole number")
        return int(text)
    if name in ("deadline", "compile_deadline"):
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise pytest.UsageError(f"refmoe: {source}={text!r} is no time in seconds")
        return seconds
    if name in _FLAGS:
        if text not in ("0", "1"):
            raise pytest.UsageError(f"refmoe: {source}={text!r} is neither 0 nor 1")
        return text == "1"
    if name in ("models", "formats", "regimes"):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    return text if name == "impl" else Path(text)


def _flag(name: str) -> str:
    return f"--refmoe-{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"REFMOE_{name.upper()}"
