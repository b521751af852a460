"""The example database that the processes, or the machines, of a campaign share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

#: Ends of the keys under which hypothesis keeps what is no failure.
_ITS_OWN = (b".secondary", b".pareto")
_SERVERS = ("redis://", "rediss://", "unix://")
#: Seconds that a server may take to answer.
_PATIENCE = 5.0


def opened(place: str) -> ExampleDatabase:
    """A folder, or a Redis server at redis://HOST:PORT/NUMBER.

    Raises ImportError where the package redis is missing.
    """
    if not place.startswith(_SERVERS):
        return DirectoryBasedExampleDatabase(Path(place))
    # The client says which package is missing; hypothesis' own import would not.
    client = _client(place)
    from hypothesis.extra.redis import RedisExampleDatabase

    return RedisExampleDatabase(client)


def check(place: str) -> None:
    """Raise ValueError where nothing can be kept, ImportError without the package."""
    if place.startswith(_SERVERS):
        try:
            client = _client(place)
            client.ping()
            client.close()
        except ImportError:
            raise
        except Exception as error:
            raise ValueError(
                f"--database {place}: no Redis server answers there ({error}); start "
                "one, or name a folder"
            ) from None
        return
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"--database {place}: no folder that can be written; name another, or "
            "redis://HOST:PORT/NUMBER"
        )


def _client(place: str) -> Any:
    try:
        import redis
    except ImportError:
        raise ImportError(
            f"--database {place} needs the package redis: pip install 'refmoe[redis]'"
        ) from None
    return redis.Redis.from_url(
        place, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE
    )


@dataclass
class Section(ExampleDatabase):
    """The part of a database that belongs to one op.

    An example that no longer fails here stays: it may fail on another port, or on
    another machine. What hypothesis keeps for itself goes as it pleases. A database
    that fails is not asked again; the campaign goes on without.
    """

    whole: ExampleDatabase
    name: bytes
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__init__()

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """The examples of a key."""
        found: list[bytes] = []
        self._tried(lambda: found.extend(self.whole.fetch(self._own(key))))
        return found

    def save(self, key: bytes, value: bytes) -> None:
        """Keep an example."""
        self._tried(lambda: self.whole.save(self._own(key), value))

    def delete(self, key: bytes, value: bytes) -> None:
        """Drop one that is no failure."""
        if key.endswith(_ITS_OWN):
            self._tried(lambda: self.whole.delete(self._own(key), value))

    def _tried(self, act: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            act()
        except Exception as error:
            self.failed = True
            print(f"refmoe: the database does not answer: {error}", file=sys.stderr)

    def _own(self, key: bytes) -> bytes:
        # Hypothesis' key is a digest of the test's code; failures outlive that.
        kind = next((one for one in _ITS_OWN if key.endswith(one)), b"")
        return b"refmoe:" + self.name + kind
