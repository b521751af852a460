"""The process that workers are forked from: torch imported, nothing else ever touched.

A new worker costs milliseconds instead of the seconds that torch needs to load. Nothing
here may start threads, run foreign code or touch a GPU, since what a fork inherits of
those is broken. A command that has only imported what it needs forks its nursery as
well, and starts as soon as torch is loaded once; others start a Python for it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

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
        # It may close before it has read all that was sent, or anything at all.
        with suppress(ConnectionError):
            send(self.control, {"ready": os.getpid()})
            while self.attend(wake):
                pass
        for pid in self.living:
            _signal_all(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def attend(self, wake: int) -> bool:
        """Do what there is to do, or wait for it; False once the other end closed."""
        wait = 0.05 if self.dying else None
        watched: list[Any] = [self.control, wake]
        ready, _, _ = select.select(watched, [], [], wait)
        if wake in ready:
            os.read(wake, 4096)
        if self.control in ready:
            message, files, _, _ = socket.recv_fds(self.control, 4096, _MOST_FILES)
            if not message:
                return False
            self.obey(json.loads(message), files)
        for pid in [pid for pid, at in self.dying.items() if time.monotonic() >= at]:
            _signal_all(pid, signal.SIGKILL)
        self.report()
        return True

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


def untouched() -> bool:
    """Whether a fork of this process is sound: one thread, and no GPU opened by torch.

    Whoever relies on it must not have opened one by other means either.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    return threads == 1 and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class Forked:
    """A fork of this process, with what its parent needs of `subprocess.Popen`."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None as long as it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code once it has ended; raises subprocess.TimeoutExpired."""
        late = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if late is not None and time.monotonic() >= late:
                raise subprocess.TimeoutExpired("nursery", timeout or 0.0)
            time.sleep(0.002)
        return code

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)


def forked(control: socket.socket) -> Forked:
    """A nursery in a fork of this process, which is `untouched`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    return Forked(pid) if pid else _nursed(control)


def _nursed(control: socket.socket) -> NoReturn:
    """The life of a nursery that is a fork, without what it has inherited."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Nothing of the parent's stays open, and no number is handed out again that an
        # object of the parent may still close.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in (1, 2, control.fileno(), nowhere):
                os.dup2(nowhere, int(name), inheritable=name == "0")
        main(control.fileno(), os.environ.get("PYTHONPATH"))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
