"""The example database that the processes, or the machines, of a campaign share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

#: Ends of the keys under which hypothesis keeps what is no failure.
_ITS_OWN = (b".secondary", b".pareto")


def opened(place: str) -> ExampleDatabase:
    """A folder, or a Redis server at redis://HOST:PORT/NUMBER.

    Raises ImportError where the package redis is missing.
    """
    if not place.startswith(("redis://", "rediss://", "unix://")):
        return DirectoryBasedExampleDatabase(Path(place))
    try:
        import redis
        from hypothesis.extra.redis import RedisExampleDatabase
    except ImportError:
        raise ImportError(
            f"--database {place} needs the package redis: pip install 'refmoe[redis]'"
        ) from None
    return RedisExampleDatabase(redis.Redis.from_url(place))


@dataclass
class Section(ExampleDatabase):
    """The part of a database that belongs to one op.

    An example that no longer fails here stays: it may fail on another port, or on
    another machine. What hypothesis keeps for itself goes as it pleases.
    """

    whole: ExampleDatabase
    name: bytes

    def __post_init__(self) -> None:
        super().__init__()

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """The examples of a key."""
        return self.whole.fetch(self._own(key))

    def save(self, key: bytes, value: bytes) -> None:
        """Keep an example."""
        self.whole.save(self._own(key), value)

    def delete(self, key: bytes, value: bytes) -> None:
        """Drop one that is no failure."""
        if key.endswith(_ITS_OWN):
            self.whole.delete(self._own(key), value)

    def _own(self, key: bytes) -> bytes:
        # Hypothesis' key is a digest of the test's code; failures outlive that.
        kind = next((one for one in _ITS_OWN if key.endswith(one)), b"")
        return b"refmoe:" + self.name + kind
