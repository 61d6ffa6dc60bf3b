"""The command line where it cannot go on: what it says, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CommandLine
from tests.refusals import paragraph
from workbench.workspace import ROOT_VARIABLE


def hide(module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every Python that is started from here on believe that a module is not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_refusals_are_one_paragraph(
    command_line: CommandLine, tmp_path: Path, npz: Callable[..., Path], digits_file: Path
) -> None:
    (tmp_path / "text.onnx").write_text("hello\n")
    (tmp_path / "recipe.yaml").write_text("model: sample:digits\ndata: sample:digits\nlatency: {secnds: 1}\n")
    (tmp_path / "broken.yaml").write_text("model: [")
    (tmp_path / "file").touch()
    npz(image=np.zeros((3, 1, 32, 32), np.float32), labels=np.array([0, 1, 10]))
    for words, expected in (
        (("inspect", "none.onnx"), "There is no file none.onnx."),
        (("inspect", "text.onnx"), "text.onnx is not an ONNX model"),
        (("accuracy", "sample:digits", "--data", "data.npz"), "run from 0 to 10, but the model has 10 classes"),
        (("run", "broken.yaml"), "The recipe broken.yaml is not valid"),
        (("run", "recipe.yaml"), "has no option 'secnds'. Did you mean 'seconds'?"),
        (("latency", "sample:digits", "--seconds", "0"), "seconds = 0.0"),
        (("latency", "sample:digits", "--provider", "AzureExecutionProvider"), "AzureExecutionProvider"),
        (("accuracy", "sample:digits", "--data", digits_file, "--workspace", "file/w"), "w cannot be written"),
        (("show", "recipe.yaml"), "recipe.yaml is not the result of a run"),
    ):
        assert expected in paragraph(command_line(*words)), words


def test_an_unknown_command_or_flag_is_refused(command_line: CommandLine) -> None:
    for words in (("inspekt", "sample:digits"), ("inspect", "sample:digits", "--bach", "2"), ("latency",)):
        ended = command_line(*words)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr


def test_a_plugin_that_lacks_a_package_says_which_and_how_to_get_it(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("onnx2tf", tmp_path / "hidden", monkeypatch)
    for name in ("tf-serving", "tf_serving"):
        words = paragraph(command_line("export", name, "m.onnx", "--sample", "data.npz", "--directory", "new"))
        assert "'tf_serving' needs onnx2tf" in words
        assert "pip install 'deployment-workbench[litert]'" in words
    assert "✗ needs onnx2tf" in command_line("plugins").stdout


def test_a_port_or_a_number_of_workers_that_cannot_be_is_said_before_anything_is_started(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    made = command_line("export", "server", "tiny.onnx", "--sample", "data.npz", "--directory", "package")
    assert made.returncode == 0, made.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, expected in (
            (("--port", str(port)), f"Port {port} of 127.0.0.1 is in use by another program."),
            (("--port", "80000"), "80000 is no port: they go from 0 to 65535."),
            (("--port", "-1"), "-1 is no port: they go from 0 to 65535."),
            (("--workers", "-3"), "-3 workers cannot be started. Say 1 to 256, or 0"),
        ):
            assert expected in paragraph(command_line("serve", "package", *words)), words


def test_a_package_whose_libraries_are_missing_is_tried_in_vain_in_one_paragraph(
    command_line: CommandLine, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = command_line("export", "server", "tiny.onnx", "--sample", "data.npz", "--directory", "package")
    assert made.returncode == 0, made.stderr
    hide("uvloop", tmp_path / "hidden", monkeypatch)
    ended = command_line("try", "package")
    assert ended.returncode == 2
    assert "It wrote: serve.py cannot start. uvloop is not installed. Run: pip install -r req" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """No file may grow past 100 kB, which is what a disk that fills up in the middle of a model looks like."""
    ended = subprocess.run(
        [sys.executable, "-m", "workbench", "transform", "float16", "sample:digits", "--output", "half.onnx"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "the disk is full. Free some space or use another disk" in paragraph(ended)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_interrupt_ends_at_once_and_leaves_nothing(
    tmp_path: Path, default_workspace: Path, processes_in: Callable[[Path], list[str]]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "workbench", "latency", "sample:digits", "--seconds", "60", "--precision", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "", ROOT_VARIABLE: str(default_workspace)},
        start_new_session=True,
        # Whoever started the tests in the background may have told all their children to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        end = time.monotonic() + 60
        while len(processes_in(default_workspace)) < 2 and time.monotonic() < end:  # itself and its worker
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=50)

    assert process.returncode == 130
    assert output == ""
    assert errors.strip() == "Cancelled; nothing unfinished was kept."
    assert processes_in(default_workspace) == []


def test_an_interrupt_while_it_is_imported_ends_without_a_traceback(tmp_path: Path) -> None:
    """A module that all commands need, in which the interrupt comes: libraries may swallow it, as this one does."""
    (tmp_path / "tyro.py").write_text(
        "import contextlib, os, signal, time\n"
        "with contextlib.suppress(KeyboardInterrupt):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(50)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "workbench", "plugins"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.strip() == "Cancelled; nothing unfinished was kept."


@pytest.mark.parametrize("words", [("plugins",), ("export", "server", "--help")])
def test_output_that_nobody_reads_ends_it_without_a_traceback(words: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "workbench", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(60)) == ("", 141)


def test_nothing_is_written_into_the_current_folder_unasked(
    command_line: CommandLine, tmp_path: Path, digits_file: Path
) -> None:
    (tmp_path / "here").mkdir()
    assert command_line("accuracy", "sample:digits", "--data", digits_file, cwd=tmp_path / "here").returncode == 0
    assert list((tmp_path / "here").iterdir()) == []
