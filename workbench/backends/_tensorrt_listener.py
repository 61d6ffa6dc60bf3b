"""Listens to TensorRT while it builds: its log, live and on disk, and its phases. It calls from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from workbench.backends._tensorrt_log import NO_DRIVER, TABLE, plain
from workbench.jobs import Progress

_MOST_BYTES = 20 * 10**6  # of verbose lines on disk
_MOST_WARNINGS = 5
_EVERY_SECONDS = 0.1  # between two reports of progress


class Listener:
    """Takes every line of the log and every phase of a build.

    Args:
        stream: Where the whole log is written.
        tell: Takes each line that is not verbose.
        progress: Called with the share done and a short text.
        doing: What is done, as progress says it before the name of a phase.

    Attributes:
        doing: As given.
        errors: What TensorRT could not do.
        warnings: What it warns of, as far as it is worth reading.
        kept: Lines that the table of layers and the memory are read from.
        phases: Seconds of the phases of the build, by name.
    """

    def __init__(self, stream: TextIO, tell: Callable[[str], None], progress: Progress, doing: str) -> None:
        self._stream, self._tell, self._progress, self.doing = stream, tell, progress, doing
        self._lock = threading.RLock()
        self._begun = time.monotonic()
        self._written = 0
        self._last_report = 0.0
        self._share = 0.2
        self._running: dict[str, tuple[str, float, int]] = {}  # phase → the one it belongs to, its begin, its steps
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.kept: list[str] = []
        self.phases: dict[str, float] = {}

    def say(self, severity: str, text: str) -> None:
        """Takes one message of the log; it may have several lines."""
        with self._lock:
            self._write(severity, text)
            if severity == "VERBOSE":
                if text.startswith(TABLE):
                    self.kept.append(text)
                return
            if severity == "INFO" and text.startswith("Total "):
                self.kept.append(text)
            if NO_DRIVER in text:
                return
            if "ERROR" in severity:
                self.errors.append(text)
            if severity == "WARNING" and text not in self.warnings and len(self.warnings) < _MOST_WARNINGS:
                self.warnings.append(plain(text))
            lines = text.splitlines() if severity == "INFO" else [f"{severity.lower()}: {plain(text)}"]
            for line in lines:
                if line.strip("- "):
                    self._tell(line)

    def reason(self) -> str:
        """The first error, in plain words."""
        return plain(self.errors[0]) if self.errors else "it does not say why"

    def details(self) -> str:
        """All that it said against the build."""
        return "\n".join([*self.errors, *self.warnings])

    def progress(self, share: float, text: str) -> None:
        """Reports progress, whoever calls."""
        with self._lock:
            self._last_report = time.monotonic()
            self._progress(share, text)

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._running[phase] = (parent or "", time.monotonic(), steps)
            if self._is_main(phase) or time.monotonic() - self._last_report > _EVERY_SECONDS:
                self.progress(self._share, f"{self.doing} · {phase[0].lower()}{phase[1:]}")

    def step(self, phase: str, number: int) -> None:
        """A step of a phase is done."""
        with self._lock:
            parent, _, steps = self._running.get(phase, ("?", 0.0, 0))
            if not parent and steps:
                self._share = max(self._share, 0.2 + 0.75 * min(1.0, (number + 1) / steps))

    def end(self, phase: str) -> None:
        """A phase ends."""
        with self._lock:
            if phase in self._running:
                is_main = self._is_main(phase)
                _, begun, _ = self._running.pop(phase)
                if is_main:
                    self.phases[phase] = self.phases.get(phase, 0.0) + time.monotonic() - begun

    def _is_main(self, phase: str) -> bool:
        """Whether it is a part of the whole build, not a part of a part."""
        parent = self._running[phase][0]
        return bool(parent) and not self._running.get(parent, ("?",))[0]

    def _write(self, severity: str, text: str) -> None:
        line = f"{time.monotonic() - self._begun:9.3f} {severity} {text}\n"
        if severity == "VERBOSE":
            if self._written > _MOST_BYTES:
                return
            self._written += len(line)
            if self._written > _MOST_BYTES:
                line = "(verbose lines are left out from here on)\n"
        self._stream.write(line)


def make_log(trt: Any, say: Callable[[str, str], None]) -> Any:
    """TensorRT's logger that hands everything on: the severity by its name, and the text."""

    class Log(trt.ILogger):  # type: ignore[misc]
        """Hands on."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            say(severity.name, text)

    return Log()


def make_monitor(trt: Any, listener: Listener) -> Any:
    """TensorRT's progress monitor that hands everything to a listener."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Hands on."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            listener.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            listener.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            listener.end(phase_name)

    return Monitor()
