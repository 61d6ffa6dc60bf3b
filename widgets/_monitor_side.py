"""Work that a panel does beside its first: its own buttons, its own thread, its own word on how it went."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from widgets._panel import Work
from workbench.errors import Cancelled
from workbench.report import format_seconds

_UPDATE_SECONDS = 0.25


class SideWork(w.VBox):
    """A button that starts something, one that stops it, and how it is.

    Args:
        verb: On the first button.
        stop: On the second.
        icon: On the first.
        prepare: Reads the form and returns what is to be done; may raise what is then shown.
        show: Is given what came out, in the thread that did the work.
        stopped: What is said after a stop.
    """

    state = t.Enum(("idle", "running", "done", "failed", "cancelled"), "idle")

    def __init__(
        self,
        verb: str,
        stop: str,
        icon: str,
        prepare: Callable[[], Work],
        show: Callable[[Any], None],
        *,
        tooltip: str = "",
        stopped: str = "stopped",
    ) -> None:
        self._prepare, self._show, self._stopped = prepare, show, stopped
        self._ask_stop, self._thread = threading.Event(), None
        self._failure: Exception | None = None
        self._said = 0.0
        self.start_button = w.Button(description=verb, icon=icon, tooltip=tooltip)
        self.stop_button = w.Button(description=stop, icon="stop", disabled=True)
        self._status, self._problem = w.Label(), w.HTML()
        row = w.HBox([self.start_button, self.stop_button, self._status])
        row.add_class("wb-actions")
        self._status.add_class("wb-status")
        super().__init__([row, self._problem])
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())

    def start(self) -> SideWork:
        """Does what the button does; returns at once."""
        if self.state == "running":
            return self
        self._failure, self._problem.value, self._status.value = None, "", ""
        self._ask_stop.clear()
        try:
            work = self._prepare()
        except Exception as error:
            self._fail(error)
            return self
        self._set("running")
        self._begun, self._said = time.monotonic(), 0.0
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stops the work; what it had started is ended."""
        self._ask_stop.set()
        if self.state == "running":
            self._status.value = "stopping"

    def wait(self, timeout: float | None = None) -> SideWork:
        """Waits for the end of the work.

        Raises:
            WorkbenchError: It failed.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        if self._failure is not None:
            raise self._failure
        return self

    def say(self, text: str) -> None:
        """Shows how it is."""
        self._status.value = text

    def _run(self, work: Work) -> None:
        try:
            result = work(self._report)
            self._show(result)
        except Cancelled:
            self._set("cancelled")
            self.say(self._stopped)
        except Exception as error:
            self._fail(error)
        else:
            self._set("done")
            self.say(f"done in {format_seconds(time.monotonic() - self._begun)}")

    def _report(self, fraction: float, message: str) -> None:
        if self._ask_stop.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self._said < _UPDATE_SECONDS:
            return
        self._said = now
        share = f" {100 * fraction:.0f} %" if fraction else ""
        self.say(f"{message or 'starting'}{share} · {format_seconds(now - self._begun)}")

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._set("failed")
        self.say("")
        self._problem.value = _markup.problem(error)

    def _set(self, state: str) -> None:
        self.start_button.disabled, self.stop_button.disabled = state == "running", state != "running"
        self.state = state
