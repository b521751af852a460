"""The checks that every description makes of its fields."""

from __future__ import annotations


def choose(owner: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError naming `value` and what is allowed, unless it is allowed."""
    if value not in allowed:
        options = ", ".join(repr(option) for option in allowed)
        raise ValueError(f"{owner}: {name}={value!r} is unknown; use one of {options}")


def at_least(owner: str, name: str, value: int, least: int) -> None:
    """Raise TypeError or ValueError unless `value` is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        kind = type(value).__name__
        raise TypeError(
            f"{owner}: {name}={value!r} is a {kind}; give an int >= {least}"
        )
    if value < least:
        raise ValueError(f"{owner}: {name}={value} is too small; give at least {least}")
