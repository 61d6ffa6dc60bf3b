"""The base of every panel: a form, a result, and work off the kernel's thread that can be watched and cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as w
import traitlets as t

from widgets import _markup
from workbench.errors import Cancelled
from workbench.jobs import Progress
from workbench.report import format_seconds
from workbench.workspace import Workspace

Work = Callable[[Progress], Any]


class Static(w.VBox):
    """A box that leaves a static form in saved notebooks, where only text and HTML can be shown."""

    title = ""

    def summary(self) -> str:
        """What it shows, as HTML that needs neither kernel nor scripts."""
        return _markup.empty("Nothing to show yet.")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(include=include, exclude=exclude, **options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/html"] = f"{_markup.STYLE}<h4>{self.title}</h4>{self.summary()}"
        data["text/plain"] = type(self).__name__
        return bundle


class Panel(Static):
    """A form on the left, a result on the right, and one button that runs one verb.

    A subclass gives `title`, `hint` and `verb`, and writes `prepare`, `show` and `code`. Work runs in a thread (and
    whatever is heavy or measured in a subprocess of that); the thread sets traits only.

    Args:
        form: Controls; read by `prepare`.
        result: Where `show` puts what came out.
        wide: What needs the whole width, below.
        **traits: Traits of the subclass.
    """

    hint = ""
    verb = "Run"
    icon = "play"
    update_seconds = 0.1

    state = t.Enum(("idle", "running", "done", "failed", "cancelled"), "idle")
    workspace = t.Any(None, help="A Workspace, or the folder of one; the default one if None.")
    error = t.Unicode(help="What went wrong and how to mend it; empty if nothing did.")

    def __init__(self, form: w.Widget, result: w.Widget, wide: w.Widget | None = None, **traits: Any) -> None:
        check_traits(self, traits)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._shown = 0.0
        self._start_button = w.Button(description=self.verb, icon=self.icon, button_style="primary")
        self._cancel_button = w.Button(description="Cancel", icon="stop", disabled=True)
        self._bar = w.FloatProgress(min=0, max=1, layout=w.Layout(visibility="hidden"))
        self._status = w.Label()
        self._code_button = w.ToggleButton(description="Show code", icon="code", tooltip="Python and recipe")
        self._error_box, self._code_box = w.HTML(), w.HTML()
        self.form, self.result = form, result
        self._actions = w.HBox([self._start_button, self._cancel_button, self._bar, self._status, self._code_button])
        columns = w.Box([form, result])
        heading = w.HTML(_markup.STYLE + _markup.heading(self.title, self.hint))
        for widget, name in (
            (self._actions, "wb-actions"),
            (columns, "wb-columns"),
            (form, "wb-form"),
            (result, "wb-result"),
            (heading, "wb-heading"),
            (self._status, "wb-status"),
        ):
            widget.add_class(name)
        below = [wide] if wide is not None else []
        super().__init__([heading, columns, self._actions, self._error_box, self._code_box, *below], **traits)
        self.add_class("wb-panel")
        self._start_button.on_click(lambda _: self.start())
        self._cancel_button.on_click(lambda _: self.cancel())
        self._code_button.observe(self.guard(self._show_code), "value")

    def prepare(self) -> Work:
        """Reads the form, on the kernel's thread, and returns what is to be done.

        Raises:
            WorkbenchError: Something that the work needs is missing.
        """
        raise NotImplementedError

    def show(self, result: Any) -> None:
        """Shows what came out and sets the traits that other panels are linked to."""
        raise NotImplementedError

    def code(self) -> tuple[str, str]:
        """What does the same: Python, and the step of a recipe."""
        raise NotImplementedError

    def cancelled_words(self) -> str:
        """What became of work that was cancelled, in words."""
        return "cancelled; nothing unfinished was kept"

    def start(self, prepare: Callable[[], Work] | None = None) -> Panel:
        """Does what the button does; returns at once.

        Args:
            prepare: Does something else instead, e.g. what a second button is for.
        """
        if self.state == "running":
            return self
        self._failure, self.error, self._error_box.value = None, "", ""
        self._stop.clear()
        self._begun = time.monotonic()
        try:
            work = (prepare or self.prepare)()
        except Exception as error:
            self._fail(error)
            return self
        self._set_state("running")
        self._shown = 0.0
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Stops the work; what it had started is ended."""
        self._stop.set()
        if self.state == "running":
            self._status.value = "cancelling"

    def wait(self, timeout: float | None = None) -> Panel:
        """Waits for the work to end, where there is no front end to watch it.

        Raises:
            WorkbenchError: The work failed.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        if self._failure is not None:
            raise self._failure
        return self

    def open_workspace(self) -> Workspace:
        """The workspace, opened when it is needed so that a refusal shows in the panel.

        Raises:
            WorkspaceError: It cannot be written.
        """
        return self.workspace if isinstance(self.workspace, Workspace) else Workspace(self.workspace)

    def add_action(self, button: w.Button) -> None:
        """Puts one more button beside the first."""
        first, *others = self._actions.children
        self._actions.children = [first, button, *others]

    def guard(self, callback: Callable[[], None]) -> Callable[..., None]:
        """Wraps a callback so that its error shows in the panel: Jupyter drops it without a word."""

        def guarded(*_: object) -> None:
            try:
                callback()
            except Exception as error:
                self._show_error(error)
            else:
                if self._failure is None:
                    self.error = self._error_box.value = ""

        return guarded

    def _run(self, work: Work) -> None:
        try:
            result = work(self._report)
            self.show(result)
        except Cancelled:
            self._set_state("cancelled")
            self._status.value = self.cancelled_words()
        except Exception as error:
            self._fail(error)
        else:
            self._set_state("done")
            self._status.value = f"done in {format_seconds(time.monotonic() - self._begun)}"
            self._show_code()

    def _report(self, fraction: float, message: str) -> None:
        if self._stop.is_set():
            raise Cancelled
        now = time.monotonic()
        if now - self._shown < self.update_seconds:
            return
        self._shown = now
        self._bar.value = fraction
        self._status.value = f"{message or 'starting'} · {format_seconds(now - self._begun)}"

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._set_state("failed")
        self._status.value = ""
        self._show_error(error)

    def _show_error(self, error: Exception) -> None:
        self.error = str(error)
        self._error_box.value = _markup.problem(error)

    def _set_state(self, state: str) -> None:
        running = state == "running"
        self._start_button.disabled = running
        self._cancel_button.disabled = not running
        self._bar.layout.visibility = "visible" if running else "hidden"
        self._bar.value = 0.0
        self.state = state

    def _show_code(self) -> None:
        if not self._code_button.value:
            self._code_box.value = ""
            return
        self._code_box.value = _markup.code(*self.code())


def check_traits(widget: t.HasTraits, traits: dict[str, Any]) -> None:
    """Refuses unknown keyword arguments; ipywidgets alone only warns.

    Raises:
        TypeError: Names them.
    """
    if unknown := sorted(name for name in traits if not widget.has_trait(name)):
        raise TypeError(f"{type(widget).__name__} has no {', '.join(unknown)}.")
