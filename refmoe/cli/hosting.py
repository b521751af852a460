"""Where ports run: each in a worker, or all of them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refmoe.loading import load
from refmoe.port import Port
from refmoe.worker.home import Limits
from refmoe.worker.isolated import Isolated
from refmoe.worker.runner import InProcess, Runner

#: From names to ports, all at once.
Load = Callable[[Sequence[str]], list[Port]]
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Hosting:
    """What the options say: seconds for a call and for a first one, GiB of memory."""

    in_process: bool = False
    deadline: float = _LIMITS.run
    compile_deadline: float = _LIMITS.compile
    memory: float | None = None

    def __str__(self) -> str:
        if self.in_process:
            return (
                "ports run in this process (--in-process): nothing guards the verdicts "
                "from a port that crashes, hangs or tampers"
            )
        return (
            f"ports run in workers: {self.deadline:g} s for a call, "
            f"{self.compile_deadline:g} s for the first one of an op"
        )

    @contextmanager
    def opened(self) -> Iterator[tuple[Runner, Load]]:
        """A runner, and what loads the ports that it runs."""
        if self.in_process:
            yield InProcess(), lambda names: [_loaded(name) for name in names]
            return
        memory = None if self.memory is None else int(self.memory * (1 << 30))
        with Isolated(Limits(self.deadline, self.compile_deadline, memory)) as isolated:
            # Nothing has been started here yet, and no GPU was looked at.
            isolated.host.start(fork=True)
            yield isolated, lambda names: isolated.load(*names)


def _loaded(name: str) -> Port:
    """The port in this process; ImportError for whatever its import raises."""
    try:
        return load(name)
    except (ValueError, TypeError, ImportError):
        raise
    except (Exception, SystemExit) as error:
        text = f"port {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise ImportError(text) from error
