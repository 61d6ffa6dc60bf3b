"""Several workers of one service: forked before anything is loaded, started again when they die, ended together."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:  # type checkers find these files in a package, but they are shipped and run side by side
    from .board import PID, RESTARTS, Board
    from .config import CannotStart, Config
    from .listeners import let_in
else:
    from board import PID, RESTARTS, Board
    from config import CannotStart, Config
    from listeners import let_in

FAILED_STARTS = 5  # in a row, of any worker, before the service ends
FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0  # s: before a worker that died early is started again, doubling
STEADY_SECONDS = 30.0  # a worker that lived for longer did not die early
CRASHED = 70  # exit code of a worker that failed otherwise than by a signal

Report = Callable[[dict[str, Any]], None]  # to the supervisor: ready, refused with why, or changed with why not
Work = Callable[[Config, int, int, Report], int]  # configuration, row, lifeline, report → exit code

log = logging.getLogger("serve")


@dataclass
class _Worker:
    """One process.

    Attributes:
        pid: Its number.
        pipe: Where its reports come from.
        since: When it was started.
        ready: Whether it has loaded everything.
        refused: Why it could not.
        waiting: Whether it has yet to hear of a change of models.
    """

    pid: int
    pipe: socket.socket
    since: float
    ready: bool = False
    refused: str = ""
    waiting: bool = field(default=False)


class Supervisor:
    """Keeps so many workers alive, and ends with them. It loads no model itself, so that it can fork at any time.

    Args:
        config: What they serve.
        reread: Reads config.json again.
        board: Has a row for each.
        listeners: What all of them accept connections from.
        work: What a worker does, in its own process.
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config],
        board: Board,
        listeners: Sequence[socket.socket],
        work: Work,
    ) -> None:
        self._config, self._reread, self._board, self._work = config, reread, board, work
        self._listeners = list(listeners)
        self._workers: dict[int, _Worker] = {}
        self._due = dict.fromkeys(range(board.workers), 0.0)  # rows without a worker, and when they get one
        self._early = [0] * board.workers  # deaths in a row that came early
        self._failed = 0  # starts in a row that failed
        self._ending = ""  # why the service ends by itself
        self._draining = self._announced = False
        self._lifeline, self._held = os.pipe()  # workers hold the first: when the other closes, nobody supervises them
        self._selector = selectors.DefaultSelector()
        self._changing: Config | None = None
        self._grpc_port: int | None = None

    def run(self, announce: Callable[[int | None], None]) -> None:
        """Runs until a signal comes, and all workers have drained.

        Args:
            announce: Called once all are ready, with gRPC's port.

        Raises:
            CannotStart: If workers cannot start, or die again and again at their start.
        """
        with self._signals() as waker:
            self._selector.register(waker, selectors.EVENT_READ)
            while self._workers or not self._draining:
                self._start_due()
                for key, _ in self._selector.select(self._patience()):
                    if key.fileobj is waker:
                        for number in waker.recv(4096):
                            self._signalled(number)
                    else:
                        self._heard(key.data)
                self._bury()
                alive = self._workers.values()
                if not self._announced and len(alive) == self._board.workers and all(one.ready for one in alive):
                    self._announced = True
                    announce(self._grpc_port)
        if self._ending:
            raise CannotStart(self._ending)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Has signals written to a socket, so that none comes between other things."""
        waker, writer = socket.socketpair()
        for end in (waker, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        yield waker
        signal.set_wakeup_fd(-1)

    def _patience(self) -> float | None:
        """How long there is nothing to do unless something happens, s."""
        return max(0.0, min(self._due.values()) - time.monotonic()) if self._due and not self._draining else None

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._drain()
        elif number == signal.SIGHUP and not self._draining:
            try:
                self._changing = self._reread()
            except CannotStart as reason:
                log.error("The models stay as they were. %s", reason, extra={"fields": {"event.action": "reload"}})
                return
            for worker in self._workers.values():
                worker.waiting = True
                self._tell(worker)

    def _drain(self) -> None:
        """Ends all workers, at once if they were told before; who connects from now on meets nobody."""
        self._draining = True
        while self._listeners:
            self._listeners.pop().close()
        for worker in self._workers.values():
            # One that is still loading has no request to finish.
            os.kill(worker.pid, signal.SIGTERM if worker.ready else signal.SIGKILL)

    def _tell(self, worker: _Worker) -> None:
        if worker.waiting and worker.ready:
            worker.waiting = False
            os.kill(worker.pid, signal.SIGHUP)

    def _heard(self, worker: _Worker) -> None:
        data = worker.pipe.recv(1 << 16)
        if not data:
            self._selector.unregister(worker.pipe)
            return
        for line in data.splitlines():
            report = msgspec.json.decode(line)
            if "refused" in report:
                worker.refused = report["refused"]
            elif "changed" in report:
                self._changed(report["changed"])
            else:
                worker.ready, self._failed, self._grpc_port = True, 0, report["ready"]
                self._tell(worker)

    def _changed(self, why_not: str) -> None:
        """Has workers that are started again serve what the others do; one that refuses speaks for all."""
        if why_not:
            self._changing = None
        elif self._changing is not None:
            self._config = self._changing

    def _start_due(self) -> None:
        if self._draining:
            return
        for row in [row for row, due in self._due.items() if due <= time.monotonic()]:
            del self._due[row]
            for listener in self._listeners:
                let_in(listener)
            mine, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                mine.close()
                self._become_worker(row, theirs)
            theirs.close()
            with contextlib.suppress(OSError):  # the child does the same, whoever comes first
                os.setpgid(pid, 0)
            worker = _Worker(pid, mine, time.monotonic())
            self._workers[row] = worker
            self._selector.register(mine, selectors.EVENT_READ, worker)

    def _become_worker(self, row: int, pipe: socket.socket) -> None:
        """Works in the new process, and ends it."""
        code = CRASHED
        try:
            # A group of its own: what a terminal or a shell sends to all goes to the supervisor, which passes it on.
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.close(self._held)
            self._selector.close()
            for other in self._workers.values():
                other.pipe.close()
            self._board.row = row
            self._board.own(row)[PID] = os.getpid()

            def report(what: dict[str, Any]) -> None:
                with contextlib.suppress(OSError):  # the supervisor is gone, which the lifeline tells
                    pipe.sendall(msgspec.json.encode(what) + b"\n")

            code = self._work(self._config, row, self._lifeline, report)
        except BaseException:
            log.exception("A worker failed")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _bury(self) -> None:
        """Takes note of workers that ended, and has them started again."""
        for row, worker in list(self._workers.items()):
            pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
            if not pid:
                continue
            del self._workers[row]
            while worker.pipe in self._selector.get_map():
                self._heard(worker)
            worker.pipe.close()
            self._board.died(row, usage.ru_utime + usage.ru_stime)
            if not self._draining:
                self._plan_restart(row, worker, os.waitstatus_to_exitcode(status))

    def _plan_restart(self, row: int, worker: _Worker, code: int) -> None:
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        if not worker.ready:
            self._failed += 1
            if self._failed >= FAILED_STARTS or (worker.refused and not self._announced):
                self._ending = worker.refused or (
                    f"Workers ended {self._failed} times in a row while they started, the last time {how}. The log "
                    "says more if they did; if not, memory may have run out: start it with fewer workers."
                )
                self._drain()
                return
        steady = worker.ready and time.monotonic() - worker.since > STEADY_SECONDS
        self._early[row] = 0 if steady else self._early[row] + 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self._early[row] - 1)) if self._early[row] > 1 else 0.0
        self._due[row] = time.monotonic() + delay
        self._board.own(row)[RESTARTS] += 1
        fields = {"event.action": "worker-restart", "labels.worker": row, "process.exit_code": code}
        reason = f": {worker.refused}" if worker.refused else ""
        log.error("Worker %d ended %s%s; it is started again", row, how, reason, extra={"fields": fields})
