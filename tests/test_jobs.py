"""Work in a fresh subprocess: whatever happens to it, the caller lives on and nothing is left running."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from workbench import jobs
from workbench.errors import Cancelled, DatasetError, WorkerError


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("job_tasks")


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked after yet counts as ended."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_a_function_runs_in_a_process_of_its_own(tasks: ModuleType) -> None:
    assert jobs.run(tasks.add, 2, second=3) == 5
    assert jobs.run(tasks.process_number) != os.getpid()


def test_what_the_function_prints_does_not_disturb_its_answer(tasks: ModuleType) -> None:
    assert jobs.run(tasks.chatter) == "heard"


def test_progress_arrives_in_order(tasks: ModuleType) -> None:
    heard: list[tuple[float, str]] = []
    jobs.run(tasks.report_progress, progress=lambda *message: heard.append(message))

    assert list(dict.fromkeys(heard)) == [(0.0, ""), (0.0, "step 0"), (1 / 3, "step 1"), (2 / 3, "step 2")]


def test_what_a_watched_function_tells_arrives_at_once(tasks: ModuleType) -> None:
    heard: list[str] = []

    assert jobs.run_watched(tasks.spell, "abc", watch=heard.append) == 3
    assert heard == ["a", "b", "c"]


def test_events_arrive_beside_the_answer(tasks: ModuleType) -> None:
    heard: list[int] = []
    for watch in (heard.append, None):
        with jobs.Worker(tasks.tell_events, 3) as worker:
            assert worker.receive(watch=watch) == "told"

    assert heard == [0, 1, 2]


def test_part_of_maps_a_step_onto_its_share() -> None:
    heard: list[tuple[float, str]] = []
    jobs.part_of(lambda *message: heard.append(message), 0.5, 0.75, "int8: ")(0.5, "half")

    assert heard == [(0.625, "int8: half")]


def test_an_error_for_the_user_arrives_as_it_was_raised(tasks: ModuleType) -> None:
    with pytest.raises(DatasetError, match=r"The samples are too few\. Give more\."):
        jobs.run(tasks.refuse)


def test_any_other_exception_arrives_with_its_traceback(tasks: ModuleType) -> None:
    with pytest.raises(WorkerError, match="ZeroDivisionError: nothing to divide by") as caught:
        jobs.run(tasks.fail)
    assert "in fail" in caught.value.details


def test_an_answer_that_cannot_be_sent_is_an_error(tasks: ModuleType) -> None:
    with pytest.raises(WorkerError, match="lambda"):
        jobs.run(tasks.answer_with_something_unsendable)


def test_a_crash_leaves_the_caller_unharmed(tasks: ModuleType) -> None:
    with pytest.raises(WorkerError, match=r"SIGSEGV.*unharmed") as caught:
        jobs.run(tasks.crash)
    assert "about to crash" in caught.value.details


def test_a_crash_is_noticed_although_a_child_holds_the_channel_open(tasks: ModuleType) -> None:
    with pytest.raises(WorkerError, match="SIGSEGV"):
        jobs.run(tasks.crash_with_a_child_that_holds_the_channel)


def test_an_exit_without_an_answer_tells_its_code(tasks: ModuleType) -> None:
    with pytest.raises(WorkerError, match="exit code 3"):
        jobs.run(tasks.leave)


def test_an_end_by_the_system_speaks_of_memory(tasks: ModuleType) -> None:
    with pytest.raises(WorkerError, match=r"memory ran out.*Use fewer samples"):
        jobs.run(tasks.be_killed)


def test_a_cancel_ends_the_worker_and_its_children_at_once(tasks: ModuleType, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    cancelled_at = 0.0

    def progress(fraction: float, message: str) -> None:
        nonlocal cancelled_at
        if pids.exists():
            cancelled_at = time.monotonic()
            raise Cancelled

    with pytest.raises(Cancelled):
        jobs.run(tasks.wait_with_child, str(pids), progress=progress)

    assert time.monotonic() - cancelled_at < 60  # they would sleep for ten minutes
    worker, child = map(int, pids.read_text().split())
    assert eventually(lambda: gone(worker) and gone(child))


def test_the_worker_and_its_children_end_when_their_caller_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = "import sys, job_tasks; from workbench import jobs; jobs.run(job_tasks.wait_with_child, sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    with subprocess.Popen([sys.executable, "-c", code, str(pids)], env=environment) as caller:
        assert eventually(pids.exists)
        caller.send_signal(signal.SIGKILL)
    worker, child = map(int, pids.read_text().split())

    assert eventually(lambda: gone(worker) and gone(child))


def test_files_in_the_current_folder_do_not_stand_in_for_modules(
    tasks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tempfile.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)

    assert jobs.run(tasks.add, 2, 3) == 5


def test_a_worker_imports_nothing_heavy_on_its_own(tasks: ModuleType) -> None:
    assert not {"numpy", "onnx", "onnxruntime"} & set(jobs.run(tasks.list_modules))
