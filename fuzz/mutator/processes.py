"""Tasks in processes of their own, forked from this one: each may hang, crash, corrupt.

Whoever forks must not have touched CUDA: a task meets the GPU for itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tell = Callable[[Message], None]
Task = Callable[[Tell], None]

#: Seconds between two looks at processes that are silent or ending.
_TICK = 0.05


@dataclass(slots=True)
class Child:
    """A process at work: what it has said, and when it must say more."""

    name: str
    pid: int
    pipe: int
    until: float
    said: bytes = b""


@dataclass(slots=True)
class Pool:
    """So many tasks at a time; one that is silent for `deadline` seconds is killed.

    After `until`, by the monotonic clock, none is started, and those that run end.
    """

    workers: int
    deadline: float
    until: float = float("inf")
    children: dict[int, Child] = field(default_factory=dict)
    #: Those that have closed their pipe, and are to be reaped.
    ending: list[Child] = field(default_factory=list)
    #: Killed ones, which a driver may hold back for a while.
    dying: list[int] = field(default_factory=list)

    def run(
        self, following: Callable[[], tuple[str, Task] | None]
    ) -> Iterator[tuple[str, Message]]:
        """Every task's messages as they come; the last of each says how it `ended`.

        That is a status of the process, negative for a signal, or "hung"; a task that
        ran out of the pool's time says nothing more. `following` is the next task,
        None where there is none at present; the run ends with the last process.
        """
        try:
            while time.monotonic() < self.until:
                while len(self.children) + len(self.ending) < self.workers:
                    task = following()
                    if task is None:
                        break
                    self._start(*task)
                if not self.children and not self.ending:
                    return
                yield from self._listen()
        finally:
            for child in [*self.children.values(), *self.ending]:
                self._kill(child)
            until = time.monotonic() + 5.0
            while self.dying and time.monotonic() < until:
                self._reap()
                time.sleep(_TICK)

    def _start(self, name: str, task: Task) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            for other in self.children:
                os.close(other)
            _live(task, writing)
        os.close(writing)
        until = time.monotonic() + self.deadline
        self.children[reading] = Child(name, pid, reading, until)

    def _listen(self) -> Iterator[tuple[str, Message]]:
        ready, _, _ = select.select(list(self.children), [], [], _TICK)
        for pipe in ready:
            child = self.children[pipe]
            heard = os.read(pipe, 1 << 16)
            child.until = time.monotonic() + self.deadline
            *lines, child.said = (child.said + heard).split(b"\n")
            for line in lines:
                yield child.name, json.loads(line)
            if not heard:
                del self.children[pipe]
                os.close(pipe)
                self.ending.append(child)
        for child in list(self.ending):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self.ending.remove(child)
                yield child.name, {"ended": os.waitstatus_to_exitcode(status)}
        for child in [*self.children.values(), *self.ending]:
            if time.monotonic() >= child.until:
                self._kill(child)
                yield child.name, {"ended": "hung"}
        self._reap()

    def _kill(self, child: Child) -> None:
        if self.children.pop(child.pipe, None) is None:
            self.ending.remove(child)
        else:
            os.close(child.pipe)
        for kill, target in ((os.killpg, child.pid), (os.kill, child.pid)):
            with suppress(ProcessLookupError):
                kill(target, signal.SIGKILL)
        self.dying.append(child.pid)

    def _reap(self) -> None:
        self.dying = [pid for pid in self.dying if not os.waitpid(pid, os.WNOHANG)[0]]


def _live(task: Task, pipe: int) -> None:
    """The child's life; does not return."""
    status = 1
    try:
        os.setsid()
        faulthandler.disable()
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)

        def tell(message: Message) -> None:
            data = json.dumps(message).encode() + b"\n"
            while data:
                data = data[os.write(pipe, data) :]

        task(tell)
        status = 0
    except BaseException as error:
        with suppress(BaseException):
            line = json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]})
            os.write(pipe, line.encode() + b"\n")
    finally:
        # Without exit handlers: a broken context would hang in them.
        os._exit(status)


def in_order(
    tasks: Iterator[tuple[str, Task]],
) -> Callable[[], tuple[str, Task] | None]:
    """`following` of a pool for tasks that are known beforehand."""
    return lambda: next(tasks, None)
