"""Runs a function in a fresh subprocess: its crash or its end by force never takes the caller along.

Progress and cancel are one thing: the caller's `progress` is called several times a second with the share done and a
short text; when it raises, the subprocess and all its children are ended and the exception goes on to the caller.
The subprocess ends itself when the caller's process disappears.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from workbench.errors import WorkbenchError, WorkerError

Progress: TypeAlias = Callable[[float, str], None]
P = ParamSpec("P")
R = TypeVar("R")

_TICK_SECONDS = 0.1  # how often a waiting caller can cancel
_GRACE_SECONDS = 1.0  # between asking a process to end and ending it


def silent(fraction: float, message: str) -> None:
    """The progress of a caller that does not want to know."""


def part_of(progress: Progress, start: float, end: float, prefix: str = "") -> Progress:
    """Maps the progress of one step onto its share of the whole."""

    def report(fraction: float, message: str) -> None:
        progress(start + (end - start) * fraction, f"{prefix}{message}")

    return report


class Worker:
    """A function running in its own process session, with a two-way channel of pickled messages.

    The function gets the channel's other end as first argument. Use as a context manager.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        ours, theirs = Pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        paths = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
        # onnxruntime reports its use to its makers unless it finds this variable when it is imported.
        environment = {"ORT_DISABLE_TELEMETRY": "1", **os.environ, "PYTHONPATH": paths}
        with theirs:
            self._process = subprocess.Popen(
                # -P: what lies in the current folder must not stand in for a module.
                [sys.executable, "-P", "-c", f"import workbench.jobs; workbench.jobs._serve({theirs.fileno()})"],
                stdin=subprocess.PIPE,  # held open: its end tells the worker that we are gone
                stdout=self._stderr,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=environment,
            )
        self._channel: Connection = ours
        self.send((f"{function.__module__}:{function.__qualname__}", args))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Sends one message to the function."""
        with contextlib.suppress(BrokenPipeError):  # receive() then says why it ended
            self._channel.send(message)

    def receive(self, progress: Progress = silent, watch: Callable[[Any], None] | None = None) -> Any:
        """Waits for the next message that is neither progress nor an event.

        Args:
            progress: Called with the share done and a short text; may raise to cancel.
            watch: Called with each `("event", payload)` that the function sends meanwhile; may raise to cancel.

        Raises:
            WorkbenchError: The one that the function raised.
            WorkerError: The process broke or was ended by the system.
        """
        fraction, message = 0.0, ""
        while True:
            progress(fraction, message)
            ended = self._process.poll() is not None  # its children may still hold the channel open
            if not self._channel.poll(_TICK_SECONDS):
                if ended:
                    raise self._broken()
                continue
            try:
                kind, payload = self._channel.recv()
            except (EOFError, ConnectionResetError):
                raise self._broken() from None
            if kind == "progress":
                fraction, message = payload
            elif kind == "event":
                if watch is not None:
                    watch(payload)
            elif kind == "error":
                raise payload
            else:
                return payload

    def close(self) -> None:
        """Ends the process and everything that it started."""
        self._channel.close()
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()
        self._signal(signal.SIGKILL)  # children that outlived their parent
        self._stderr.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _broken(self) -> WorkerError:
        code = self._process.wait()
        self._stderr.seek(0)
        details = self._stderr.read()[-4000:].decode(errors="replace")
        if code == -signal.SIGKILL:
            return WorkerError(
                "The subprocess was ended by the system, most likely because memory ran out.",
                "Use fewer samples, a smaller batch or a smaller model, or a machine with more memory.",
                details,
            )
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerError(
            f"The subprocess broke ({reason}); this program is unharmed.",
            "The last lines it wrote are in the error's details.",
            details,
        )


def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Runs `function(*args, **kwargs)` in a fresh subprocess and returns its result.

    A keyword argument `progress` stays here: the function gets one that reports to it.

    Raises:
        WorkbenchError: The one that the function raised.
        WorkerError: The process broke or was ended by the system.
    """
    progress: Any = kwargs.pop("progress", silent)
    with Worker(_call, function, args, kwargs) as worker:
        result: R = worker.receive(progress)
        return result


def run_watched(function: Callable[..., R], *args: Any, watch: Callable[[Any], None], progress: Progress = silent) -> R:
    """Runs `function(*args, progress=…, tell=…)` like `run`; each payload that it gives `tell` is handed to `watch`.

    Raises:
        WorkbenchError: The one that the function raised.
        WorkerError: The process broke or was ended by the system.
    """
    with Worker(_call_watched, function, args) as worker:
        result: R = worker.receive(progress, watch)
        return result


def _call_watched(channel: Connection, function: Callable[..., Any], args: Any) -> None:
    def tell(payload: Any) -> None:
        channel.send(("event", payload))

    _call(channel, function, args, {"tell": tell})


def _call(channel: Connection, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    def report(fraction: float, message: str) -> None:
        channel.send(("progress", (fraction, message)))

    channel.send(("result", function(*args, **kwargs, progress=report)))


def _serve(descriptor: int) -> None:
    """What the subprocess does: take one function with its arguments, run it, send what comes of it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Connection(descriptor) as channel:
        try:
            name, args = channel.recv()
            module, _, attribute = name.partition(":")
            getattr(importlib.import_module(module), attribute)(channel, *args)
        except EOFError:  # the caller closed the channel: nothing left to do
            pass
        except WorkbenchError as error:
            channel.send(("error", error))
        except MemoryError:
            channel.send(("error", _worker_error("Memory ran out.", "Use fewer samples or a smaller batch.")))
        except Exception as error:
            message = f"{type(error).__name__}: {str(error).strip() or 'no message'}"
            channel.send(("error", _worker_error(message, "The error's details hold the traceback.")))


def _worker_error(message: str, remedy: str) -> WorkerError:
    return WorkerError(message, remedy, traceback.format_exc())


def _end_with_parent() -> None:
    while os.read(0, 1):  # sys.stdin would hold a lock that the interpreter waits for at its end
        pass
    os.killpg(0, signal.SIGKILL)  # this process and all that it started
