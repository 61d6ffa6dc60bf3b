"""What every panel does: run off the kernel's thread, show progress and errors in words, and cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as w
import pytest
import traitlets as t

from widgets._panel import Panel, Work
from workbench.errors import ModelError, WorkerError


class Sleeper(Panel):
    """A panel whose work is given by the test."""

    title = "Sleeper"
    answer = t.Any()

    def __init__(self, work: Callable[[Any], Any], **traits: Any) -> None:
        self._work = work
        super().__init__(w.VBox(), w.VBox(), **traits)

    def prepare(self) -> Work:
        return self._work

    def show(self, result: Any) -> None:
        self.answer = result

    def code(self) -> tuple[str, str]:
        return "wb.sleep()", "sleep: 1"


def texts(panel: Panel) -> str:
    """Everything that a panel shows as HTML."""
    return "".join(child.value for child in panel.children if isinstance(child, w.HTML))


def test_work_runs_beside_the_kernel_and_its_result_is_shown() -> None:
    panel = Sleeper(lambda progress: threading.current_thread().name)
    assert panel.start().wait().state == "done"
    assert panel.answer != threading.main_thread().name


def test_an_error_is_shown_in_words_with_its_remedy() -> None:
    def fail(progress: Any) -> None:
        raise ModelError("model.onnx is empty <b>.", "Export it again.")

    panel = Sleeper(fail).start()
    with pytest.raises(ModelError):
        panel.wait()
    assert panel.state == "failed"
    assert panel.error == "model.onnx is empty <b>. Export it again."
    assert 'role="alert"' in texts(panel)
    assert "empty &lt;b&gt;" in texts(panel)


def test_an_unexpected_error_shows_no_stack_trace() -> None:
    panel = Sleeper(lambda progress: 1 / 0).start()
    with pytest.raises(ZeroDivisionError):
        panel.wait()
    assert "ZeroDivisionError" in texts(panel)
    assert "Traceback" not in texts(panel)


def test_what_a_broken_subprocess_wrote_is_folded() -> None:
    def fail(progress: Any) -> None:
        raise WorkerError("The subprocess broke.", "See details.", "line 1\nline 2")

    panel = Sleeper(fail).start()
    with pytest.raises(WorkerError):
        panel.wait()
    assert "<details>" in texts(panel)


def test_cancel_stops_the_work() -> None:
    begun = threading.Event()

    def forever(progress: Any) -> None:
        begun.set()
        while True:
            progress(0.5, "working")
            time.sleep(0.01)

    panel = Sleeper(forever).start()
    assert begun.wait(60)
    panel.cancel()
    panel.wait(60)
    assert panel.state == "cancelled"
    assert panel.error == ""


def test_a_second_press_while_running_does_nothing() -> None:
    calls: list[int] = []
    go = threading.Event()

    def work(progress: Any) -> None:
        calls.append(1)
        go.wait(60)

    panel = Sleeper(work).start()
    panel.start()
    go.set()
    panel.wait()
    assert calls == [1]


def test_an_old_error_goes_away_with_the_next_start() -> None:
    outcomes = iter([ModelError("bad", "mend it"), None])

    def work(progress: Any) -> None:
        outcome = next(outcomes)
        if outcome:
            raise outcome

    panel = Sleeper(work).start()
    with pytest.raises(ModelError):
        panel.wait()
    panel.start().wait()
    assert panel.error == ""
    assert "bad" not in texts(panel)


def test_show_code_gives_python_and_the_step_of_a_recipe() -> None:
    panel = Sleeper(lambda progress: None)
    [toggle] = [child for child in panel.children[2].children if isinstance(child, w.ToggleButton)]
    toggle.value = True
    assert "wb.sleep()" in texts(panel)
    assert "sleep: 1" in texts(panel)
    toggle.value = False
    assert "wb.sleep()" not in texts(panel)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="modle"):
        Sleeper(lambda progress: None, modle=1)


def test_a_saved_notebook_keeps_a_static_form() -> None:
    bundle = Sleeper(lambda progress: None)._repr_mimebundle_()
    assert "Sleeper" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
