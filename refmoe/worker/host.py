"""The judge's side of one worker: started, spoken to, watched, ended."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from refmoe.worker.channel import Frame, Garbled, receive, send
from refmoe.worker.nursery import Forked, forked, untouched

#: Requests that may be under way at once; each has a file for its tensors.
SLOTS = 8
#: Bytes that a worker may print between two calls before it is ended.
LOUDEST = 1 << 26
#: Bytes of its output that a finding shows.
_SHOWN = 8192
#: Seconds between two looks at whether a silent worker is still there.
_TICK = 0.2
#: Seconds that a nursery may take to start.
_START = 120.0


class Ended(Exception):
    """A worker ended, or was ended; the message says how."""


@dataclass(slots=True)
class Host:
    """The process that workers are forked from (`refmoe.worker.nursery`)."""

    process: subprocess.Popen[bytes] | Forked | None = None
    control: socket.socket | None = None
    ended: dict[int, int] = field(default_factory=dict)
    ready: bool = False
    #: Whether its end of the control socket is closed.
    deaf: bool = False

    @property
    def gone(self) -> bool:
        """Whether it does not run, or has stopped answering."""
        return self.process is None or self.deaf or self.process.poll() is not None

    def start(self, *, fork: bool = False) -> None:
        """Start it, unless it runs; returns before it is ready.

        A command that has imported torch, and done nothing else, may `fork` it.
        """
        if not self.gone:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = forked(theirs) if fork and untouched() else _started(theirs)
        theirs.close()
        self.control, self.ready, self.deaf, self.ended = ours, False, False, {}

    def fork(self, files: list[int], limits: dict[str, Any]) -> int:
        """A new worker with these files; its process id."""
        self.start()
        assert self.control is not None
        if not self.ready:
            self._until("ready", _START)
            self.ready = True
        socket.send_fds(self.control, [json.dumps({"fork": limits}).encode()], files)
        return int(self._until("forked", _START))

    def kill(self, pid: int) -> None:
        """Have a worker ended; it may write down where it stood."""
        if pid not in self.ended and self.control is not None:
            try:
                send(self.control, {"kill": pid})
            except OSError:
                return

    def status(self, pid: int, seconds: float = 10.0) -> int | None:
        """The exit code of a worker that is ending, negative for a signal."""
        try:
            if pid not in self.ended:
                self._until("ended", seconds, pid)
        except Ended:
            return None
        return self.ended.get(pid)

    def _until(self, what: str, seconds: float, pid: int | None = None) -> Any:
        """The value of the next frame called `what`, of that worker if one is named."""
        assert self.control is not None
        until = time.monotonic() + seconds
        while True:
            left = max(until - time.monotonic(), 0.0)
            ready, _, _ = select.select([self.control], [], [], left)
            frame = receive(self.control) if ready else None
            if frame is None:
                self.deaf = bool(ready)
                raise Ended("the process that workers are forked from is gone")
            if "ended" in frame:
                self.ended[frame["ended"]] = frame["status"]
            if what in frame and pid in (None, frame[what]):
                return frame[what]

    def close(self) -> None:
        """End it and every worker."""
        if self.control is not None:
            self.control.close()
            self.control = None
        if self.process is not None:
            try:
                self.process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None


@dataclass(slots=True)
class Worker:
    """One worker: a socket, a log, and a file for the tensors of each request."""

    host: Host
    channel: socket.socket
    log: int
    files: list[int]
    pid: int
    #: Slots that no request has at present.
    free: list[int] = field(default_factory=lambda: list(range(SLOTS)))
    #: Where in the log the present call begins.
    since: int = 0
    #: Ops that have returned once here: what they compile is compiled.
    called: set[tuple[str, ...]] = field(default_factory=set)

    @staticmethod
    def born(host: Host, memory: int | None) -> Worker:
        """A new one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = os.memfd_create("log")
        files = [os.memfd_create(f"slot{n}") for n in range(SLOTS)]
        pid = host.fork([theirs.fileno(), log, *files], {"memory": memory})
        theirs.close()
        return Worker(host, ours, log, files, pid)

    def send(self, frame: Frame) -> None:
        """Send a request; a worker that is gone says so at the next `receive`."""
        try:
            send(self.channel, frame)
        except OSError:
            return

    def receive(self, until: float) -> Frame | None:
        """The next frame; None once the monotonic clock says `until`.

        Raises Ended where the worker is gone, Garbled where it sent no frame.
        """
        while True:
            left = until - time.monotonic()
            wait = max(min(left, _TICK), 0.0)
            ready, _, _ = select.select([self.channel], [], [], wait)
            if ready:
                try:
                    frame = receive(self.channel)
                except OSError:
                    frame = None
                if frame is None:
                    raise Ended(self._last_words())
                return frame
            if os.fstat(self.log).st_size > self.since + LOUDEST:
                raise Garbled(f"more than {LOUDEST >> 20} MiB of output")
            if self.host.gone:
                raise Ended(self._last_words())
            if left <= 0:
                return None

    def _last_words(self) -> str:
        code = self.host.status(self.pid)
        if code is None and self.host.gone:
            return "the process that it was forked from was killed"
        if code is None:
            return "the worker closed its channel and went on"
        if code < 0:
            return f"the worker was killed by {signal.Signals(-code).name}"
        return f"the worker exited with status {code}"

    def output(self) -> str:
        """What the present call has printed, its last part."""
        size = os.fstat(self.log).st_size
        at = max(self.since, size - _SHOWN)
        return os.pread(self.log, _SHOWN, at).decode(errors="replace")

    def end(self) -> str:
        """End it, with what it was doing on its lips; all that the call printed."""
        self.host.kill(self.pid)
        self.host.status(self.pid)
        text = self.output()
        self.close()
        return text

    def close(self) -> None:
        """Give up its files."""
        self.channel.close()
        for file in (self.log, *self.files):
            os.close(file)


def _started(control: socket.socket) -> subprocess.Popen[bytes]:
    """A nursery in a Python of its own."""
    before = os.environ.get("PYTHONPATH")
    arguments = [str(control.fileno())] + ([] if before is None else [before])
    # The worker finds modules where this process does, and in that order.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "refmoe.worker", *arguments],
        stdin=subprocess.DEVNULL,
        pass_fds=[control.fileno()],
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
