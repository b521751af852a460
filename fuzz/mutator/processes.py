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
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Tell = Callable[[Message], None]
Task = Callable[[Tell], None]


@dataclass(slots=True)
class Child:
    """A process at work: what it has said, and when it must say more."""

    name: str
    pid: int
    pipe: int
    until: float
    said: bytes = b""
    hung: bool = False


@dataclass(slots=True)
class Pool:
    """So many tasks at a time; one that is silent for `deadline` seconds is killed.

    After `until`, by the monotonic clock, none is started, and those that run end.
    """

    workers: int
    deadline: float
    until: float = float("inf")
    children: dict[int, Child] = field(default_factory=dict)

    def run(self, tasks: Iterable[tuple[str, Task]]) -> Iterator[tuple[str, Message]]:
        """Every task's messages as they come, the last of each says how it `ended`.

        That is a status of the process, negative for a signal, or "hung"; a task that
        ran out of the pool's time says nothing more.
        """
        waiting = iter(tasks)
        more = True
        try:
            while more or self.children:
                while more and len(self.children) < self.workers:
                    task = next(waiting, None)
                    more = task is not None and time.monotonic() < self.until
                    if more and task is not None:
                        self._start(*task)
                if time.monotonic() >= self.until:
                    return
                yield from self._listen()
        finally:
            for child in list(self.children.values()):
                self._end(child)

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
        ready, _, _ = select.select(list(self.children), [], [], 0.05)
        for pipe in ready:
            child = self.children[pipe]
            heard = os.read(pipe, 1 << 16)
            child.until = time.monotonic() + self.deadline
            *lines, child.said = (child.said + heard).split(b"\n")
            for line in lines:
                yield child.name, json.loads(line)
            if not heard:
                yield child.name, {"ended": self._end(child)}
        for child in list(self.children.values()):
            if time.monotonic() >= child.until:
                self._end(child)
                yield child.name, {"ended": "hung"}

    def _end(self, child: Child) -> int:
        """Kill it and take its status; one the driver holds back is left behind."""
        del self.children[child.pipe]
        os.close(child.pipe)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if not child.hung:
                child.hung = True
                until = time.monotonic() + 5.0
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            time.sleep(0.01)
        return -signal.SIGKILL


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
