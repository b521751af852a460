"""What a campaign is: everything that decides which cases its streams draw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from refmoe.port import Port
from refmoe.worker.runner import Runner

_FILE = "campaign.json"
#: Elements of the largest case that a campaign draws unless told.
ELEMENTS = 1 << 14


class Hosting(Protocol):
    """Where ports run; opened in every process of a campaign."""

    def opened(
        self,
    ) -> AbstractContextManager[tuple[Runner, Callable[[Sequence[str]], list[Port]]]]:
        """A runner, and what loads the ports that it runs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The ports, what is drawn for them, and into how many streams the work is cut.

    Empty: everything that the strategies draw. Streams are numbered through all
    shards, so that no two processes draw the same cases.
    """

    ports: tuple[str, ...]
    ops: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    regimes: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    elements: int = ELEMENTS
    seed: int = 0
    #: Processes of each shard.
    workers: int = 2
    shard: int = 0
    shards: int = 1

    @property
    def streams(self) -> range:
        """The numbers of this shard's streams."""
        first = self.shard * self.workers
        return range(first, first + self.workers)

    @property
    def name(self) -> str:
        """A short name, the same for all shards of one campaign."""
        whole = json.dumps(asdict(self) | {"shard": 0}, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:8]

    def share(self, cases: int, stream: int) -> int:
        """How many of the campaign's cases a stream draws."""
        count = self.workers * self.shards
        return cases // count + (stream < cases % count)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run stops: cases of the whole campaign, seconds of this run."""

    cases: int | None = None
    seconds: float | None = None


def read(folder: Path) -> Plan:
    """The plan that a state folder belongs to; raises ValueError if it is none."""
    path = folder / _FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in found.items()
        }
        return Plan(**fields)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is no state of a campaign: {error}") from None


def claim(folder: Path, plan: Plan) -> None:
    """Make `folder` the state of `plan`, or check that it is already.

    Raises ValueError naming what differs, where it belongs to another campaign, or
    where nothing can be written there.
    """
    path = folder / _FILE
    if path.exists():
        old, new = asdict(read(folder)), asdict(plan)
        for key, value in new.items():
            if old[key] != value:
                raise ValueError(
                    f"{folder} holds a campaign with {key}={_shown(old[key])}, not "
                    f"{_shown(value)}; resume it with the same options, or name "
                    "another --state"
                )
        return
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(plan), indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise ValueError(
            f"the state cannot be kept in {folder} ({error.strerror}); make room "
            "there, or name another --state"
        ) from None


def _shown(value: Any) -> str:
    return ",".join(value) or "(default)" if isinstance(value, tuple) else str(value)
