"""The process that workers are forked from: torch imported, nothing else ever touched.

A new worker costs milliseconds instead of the seconds that torch needs to load. Nothing
here may start threads, run foreign code or touch a GPU, since what a fork inherits of
those is broken.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import torch

from refmoe.worker.channel import send
from refmoe.worker.child import live

#: File descriptors that come with a request to fork, at most.
_MOST_FILES = 64
#: Seconds that a worker has to write down its stack once it is told to die.
_LAST_WORDS = 0.5
_DIE_WITH_PARENT = 1


@dataclass(slots=True)
class Nursery:
    """Forks a worker for each request, ends those that are to end, reports their ends.

    Requests: {"fork": limits} with a socket, the log and the tensors' files; {"kill":
    pid}. Frames back: {"forked": pid}, {"ended": pid, "status": wait status}.
    """

    control: socket.socket
    living: set[int] = field(default_factory=set)
    #: When to kill those that were told to die.
    dying: dict[int, float] = field(default_factory=dict)

    def serve(self) -> None:
        """Until the other end closes; no worker outlives that."""
        wake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        send(self.control, {"ready": os.getpid()})
        while True:
            wait = 0.05 if self.dying else None
            watched: list[Any] = [self.control, wake]
            ready, _, _ = select.select(watched, [], [], wait)
            if wake in ready:
                os.read(wake, 4096)
            if self.control in ready:
                message, files, _, _ = socket.recv_fds(self.control, 4096, _MOST_FILES)
                if not message:
                    break
                self.obey(json.loads(message), files)
            for pid in [
                pid for pid, at in self.dying.items() if time.monotonic() >= at
            ]:
                _signal_all(pid, signal.SIGKILL)
            self.report()
        for pid in self.living:
            _signal_all(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def obey(self, request: dict[str, Any], files: list[int]) -> None:
        """One request."""
        if "kill" in request:
            # An abort makes the worker write where it stands.
            self.dying[request["kill"]] = time.monotonic() + _LAST_WORDS
            os.kill(request["kill"], signal.SIGABRT)
            return
        pid = os.fork()
        if pid == 0:
            self.bear(request["fork"], files)
        self.living.add(pid)
        for file in files:
            os.close(file)
        send(self.control, {"forked": pid})

    def bear(self, limits: dict[str, Any], files: list[int]) -> None:
        """The life of a worker, in the fork; does not return."""
        status = 1
        try:
            os.setsid()
            die_with_parent()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.control.close()
            channel, log, *slots = files
            live(socket.socket(fileno=channel), slots, log, limits["memory"])
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # Without the exit handlers of whatever the port has loaded.
            os._exit(status)

    def report(self) -> None:
        """Say which workers have ended; what they left running ends as well."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, flags)
            except ChildProcessError:
                return
            if ended is None:
                return
            _signal_all(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            self.dying.pop(ended.si_pid, None)
            self.living.discard(ended.si_pid)
            code = os.waitstatus_to_exitcode(status)
            send(self.control, {"ended": ended.si_pid, "status": code})


def _signal_all(pid: int, number: int) -> None:
    """To a worker and every process of its session's first group."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that made it ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def main(control: int, path: str | None) -> None:
    """`python -m refmoe.worker`; `path` is what PYTHONPATH was before."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.pop("PYTHONPATH", None)
    if path is not None:
        os.environ["PYTHONPATH"] = path
    torch.set_num_threads(1)
    Nursery(socket.socket(fileno=control)).serve()
