"""The command line as a user meets it: in a process of its own, judged by what it prints and its exit code."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from workbench.__main__ import main
from workbench.options import option_fields
from workbench.plugins import find_plugin, list_plugins
from workbench.workspace import ROOT_VARIABLE

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


def paragraph(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    [line] = ended.stderr.strip().splitlines()
    return line


def hide(module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every Python that is started from here on believe that a module is not installed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_help_lists_every_command(command_line: CommandLine) -> None:
    ended = command_line("--help")

    assert ended.returncode == 0
    for command in (
        "run",
        "compare",
        "inspect",
        "transform",
        "latency",
        "accuracy",
        "load",
        "load-curve",
        "sweep",
        "loadgen",
        "profile",
        "explain",
        "export",
        "try",
        "show",
        "plugins",
    ):
        assert f" {command} " in ended.stdout


@pytest.mark.parametrize(("command", "group"), [("transform", "transforms"), ("export", "exporters")])
def test_every_option_of_a_plugin_is_a_flag_with_its_help(command_line: CommandLine, command: str, group: str) -> None:
    for plugin in list_plugins(group):
        shown = " ".join(
            command_line(command, plugin.name.replace("_", "-"), "--help").stdout.replace("│", " ").split()
        )
        for field in option_fields(find_plugin(group, plugin.name).Options):
            assert f"--{field.name.replace('_', '-')}" in shown
            assert field.help.split(".")[0] in shown


def test_inspect_shows_the_model(command_line: CommandLine) -> None:
    ended = command_line("inspect", "sample:digits", "--batch", "2")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "digits_cnn: 0.88 MB, opset 17" in ended.stdout
    assert "in   image float32[batch, 1, 32, 32]" in ended.stdout
    assert "Multiply-accumulates: 71.9 M at batch 2" in ended.stdout
    assert re.search(r"Conv +8 +214 k +71.9 M", ended.stdout)


@pytest.mark.heavy
def test_weights_of_another_framework_become_a_checked_file(command_line: CommandLine, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    weights = {"weight": np.eye(3, 4, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    safetensors.save_file(weights, tmp_path / "net.safetensors")
    (tmp_path / "nets.py").write_text("import torch\n\n\ndef build():\n    return torch.nn.Linear(4, 3)\n")
    given = ("net.safetensors", "--output", "net.onnx", "--factory", "nets.py:build")
    ended = command_line("import", "pytorch", *given, "--inputs", "x float32[batch, 4]")

    assert ended.returncode == 0, ended.stderr
    assert "x float32[batch, 4]" in ended.stdout
    assert "Converted from PyTorch" in ended.stdout
    assert "100.0 %" in ended.stdout
    assert "net: " in command_line("inspect", "net.onnx").stdout
    assert "exists already" in paragraph(command_line("import", "onnx", "net.onnx", "--output", "net.onnx"))
    assert "is read by the importer onnx" in paragraph(
        command_line("import", "keras", "net.onnx", "--output", "a.onnx")
    )


def test_two_models_are_compared(command_line: CommandLine, model_file: Callable[..., Path], tmp_path: Path) -> None:
    model_file(tmp_path / "narrow.onnx")
    model_file(tmp_path / "wide.onnx", wide=2)
    ended = command_line("diff", "narrow.onnx", "wide.onnx")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "narrow → wide: 2 changed" in ended.stdout


def test_plugins_lists_all_groups(command_line: CommandLine) -> None:
    shown = command_line("plugins").stdout

    for name in ("onnxruntime", "quantize_static", "quantize_dynamic", "float16", "server"):
        assert name in shown


def test_accuracy_and_latency_of_a_file(
    command_line: CommandLine, model_file: Callable[..., Path], tmp_path: Path, npz: Callable[..., Path]
) -> None:
    model_file(tmp_path / "m.onnx")
    npz(x=np.eye(4, dtype=np.float32)[[0, 1, 2, 0]], labels=np.array([0, 1, 2, 2]))
    accuracy = command_line("accuracy", "m.onnx", "--data", "data.npz")
    latency = command_line("latency", "m.onnx", "--data", "data.npz", "--threads", "1", "--seconds", "0.2")

    assert accuracy.stdout.startswith("top-1  75.00 % (")
    assert "4 samples" in accuracy.stdout
    assert latency.stdout.startswith("p10 ")
    assert "at batch 1, 1 threads, on CPUExecutionProvider" in latency.stdout


def test_transform_export_try(command_line: CommandLine, tmp_path: Path, digits_file: Path) -> None:
    made = command_line("transform", "float16", "sample:digits", "--output", "out/half.onnx")
    assert made.returncode == 0, made.stderr
    onnx.checker.check_model(str(tmp_path / "out" / "half.onnx"))

    again = command_line("transform", "float16", "sample:digits", "--output", "out/half.onnx")
    assert "half.onnx exists already, and nothing is overwritten." in paragraph(again)

    packed = command_line("export", "server", "out/half.onnx", "--sample", digits_file, "--directory", "package")
    assert packed.returncode == 0, packed.stderr
    assert packed.stdout.splitlines()[1] == "Start it there: python serve.py"

    tried = command_line("try", "package")
    assert tried.returncode == 0, tried.stderr
    assert "answered 200" in tried.stdout

    answer = json.loads((tmp_path / "package" / "sample_response.json").read_text())
    answer["outputs"][0]["data"][0] += 1
    (tmp_path / "package" / "sample_response.json").write_text(json.dumps(answer))
    wrong = command_line("try", "package")
    assert wrong.returncode == 1
    assert "NOT as expected" in wrong.stdout


@pytest.fixture
def small(tmp_path: Path, model_file: Callable[..., Path], npz: Callable[..., Path]) -> Path:
    """A small model with labelled samples, in the folder that commands run in."""
    npz(x=np.eye(4, dtype=np.float32)[[0, 1, 2]], labels=np.arange(3))
    return model_file(tmp_path / "tiny.onnx")


def test_a_package_runs_what_its_backend_was_told(command_line: CommandLine, small: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    where = ("--sample", "data.npz", "--directory", "package", "--backend", "openvino")
    packed = command_line("export", "server", "tiny.onnx", *where, "--set", "threads=1", "precision=float32")
    assert packed.returncode == 0, packed.stderr
    assert "Nothing was measured" in packed.stdout

    [served] = json.loads((tmp_path / "package" / "config.json").read_text())["models"]
    assert (served["backend"], served["threads"]) == ("openvino", 1)
    assert "as expected" in command_line("try", "package").stdout


def test_a_backend_that_the_exporter_does_not_run_is_refused_before_anything_is_measured(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    pytest.importorskip("MNN")
    words = ("tiny.onnx", "--sample", "data.npz", "--directory", "package", "--backend", "mnn", "--measure")
    assert "tiny is built for mnn. Choose a candidate" in paragraph(command_line("export", "server", *words))
    assert not list(tmp_path.rglob("sweeps"))


def test_a_candidate_of_a_run_is_exported_with_its_measurements(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    recipe = """
        model: tiny.onnx
        data: data.npz
        options: {threads: 1}
        candidates: [{name: half, transforms: [float16]}]
        latency: {seconds: 0.2, launches: 1}
    """
    (tmp_path / "recipe.yaml").write_text(recipe)
    ran = command_line("run", "recipe.yaml")
    [result] = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("result ")]

    packed = command_line("export", "server", "--run", result, "--candidate", "half", "--directory", "package")
    assert packed.returncode == 0, packed.stderr
    assert "one after the other" in packed.stdout
    assert "Usual values, not measured: " in packed.stdout
    assert "half (float16)" in (tmp_path / "package" / "README.md").read_text()
    row = json.loads((tmp_path / "package" / "provenance" / "measurements.json").read_text())["row"]
    assert row["candidate"] == "half"
    assert row["accuracy"]["samples"] == 3

    again = command_line("export", "server", "--run", result, "--directory", "package")
    assert "package exists already" in paragraph(again)
    other = command_line("export", "server", "--run", result, "--candidate", "hlf", "--directory", "new")
    assert "Did you mean 'half'?" in paragraph(other)


def test_an_export_says_what_it_lacks_and_what_excludes_what(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: the words alone matter."""
    monkeypatch.chdir(tmp_path)
    for words, expected in (
        ("tiny.onnx --run run.json --set threads=2", "MODEL, --set and --run exclude each other"),
        ("--run data.npz", "data.npz is not the result of a run"),
        ("tiny.onnx --sample data.npz --candidate half", "no run that it is of"),
        ("", "neither a model nor a run"),
        ("tiny.onnx", "Give some with --sample"),
        ("tiny.onnx --sample data.npz --original tiny.onnx", "Add --measure"),
        ("tiny.onnx --sample data.npz --backend opnvino", "Did you mean 'openvino'?"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["export", "server", *words.split(), "--directory", "new"])
        assert expected in capsys.readouterr().err, words
    assert not (tmp_path / "new").exists()


@pytest.mark.heavy
def test_an_export_measures_accuracy_and_speed_beside_the_original(
    command_line: CommandLine, small: Path, tmp_path: Path
) -> None:
    command_line("transform", "float16", "tiny.onnx", "--output", "half.onnx")
    words = ("half.onnx", "--sample", "data.npz", "--directory", "package", "--measure", "--original", "tiny.onnx")
    short = {"latency.seconds": 0.2, "latency.launches": 1, "measurement.batches": 1, "measurement.seconds": 0.2}
    short |= {"measurement.steps": 2, "measurement.rounds": 0}
    flags = [word for name, value in short.items() for word in (f"--{name}", str(value))]
    packed = command_line("export", "server", *words, *flags)

    assert packed.returncode == 0, packed.stderr
    assert re.search(r"half .*onnxruntime .*100\.0 %", packed.stdout)
    assert "Usual values, not measured: alert error ratio." in packed.stdout
    measured = json.loads((tmp_path / "package" / "provenance" / "measurements.json").read_text())
    assert measured["row"]["agreement"]["share"] == 1
    assert len(measured["curve"]) == 2
    assert "top-1 100.0 % on 3 samples" in (tmp_path / "package" / "README.md").read_text()


def test_compare_prints_the_table_and_holds_its_gates(command_line: CommandLine, digits_file: Path) -> None:
    words = (
        "compare",
        "sample:digits",
        "--data",
        digits_file,
        "--transforms",
        "float16",
        "--threads",
        "1",
        "--latency.seconds",
        "0.3",
    )
    ended = command_line(*words)
    assert ended.returncode == 0, ended.stderr
    assert "float16" in ended.stdout
    assert "★ " in ended.stdout

    [result] = [line.split()[1] for line in ended.stdout.splitlines() if line.startswith("result ")]
    shown = command_line("show", result).stdout
    assert shown.strip() in ended.stdout

    missed = command_line(*words, "--gates.max-size-mb", "0.1")
    assert missed.returncode == 1
    assert "misses 1 gate: max_size_mb" in missed.stderr
    assert len(missed.stderr.strip().splitlines()) == 1


# --- refusals ------------------------------------------------------------------------------------------------------


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
