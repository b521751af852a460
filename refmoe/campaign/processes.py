"""Where the processes of a campaign come from: forks of the command.

The command loads everything once, and opens and starts nothing: ports are imported, and
the GPU is looked at, in its forks alone.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkServerContext
from typing import Any, TypeVar

from refmoe.worker.nursery import untouched

#: Exceptions that tell the user what to mend.
_USAGE = {"ValueError": ValueError, "TypeError": TypeError, "ImportError": ImportError}
T = TypeVar("T")


def context() -> ForkContext | ForkServerContext:
    """How processes are made: forked, where this one has neither threads nor a GPU.

    Else a server loads everything once more, and forks.
    """
    if untouched():
        return multiprocessing.get_context("fork")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["refmoe.campaign.stream"])
    return server


def elsewhere(what: str, function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns in a process of its own, which ends with it.

    Raises what it raises where that is the user's to mend; ImportError, which says
    `what` it was doing, for all else.
    """
    made = context()
    ours, theirs = made.Pipe(duplex=False)
    process = made.Process(target=_answered, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        found, error = ours.recv()
    except EOFError:
        process.join()
        ended = f"{what} ended its process with status {process.exitcode}"
        raise ImportError(ended) from None
    finally:
        # It is not waited for: neither an import that hangs, nor a thread that is left.
        process.kill()
    process.join()
    if error is not None:
        kind, text = error
        if kind not in _USAGE:
            kind, text = "ImportError", f"{what}: {kind}: {text}"
        raise _USAGE[kind](text)
    answer: T = found
    return answer


def _answered(
    pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    # Ctrl-C is the parent's to hear.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send((function(*arguments), None))
    except Exception as error:
        pipe.send((None, (type(error).__name__, str(error))))


def orphaned() -> bool:
    """Whether the command that made this process is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
