"""The command line as a user meets it: in a process of its own, judged by what it prints and its exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import CommandLine
from tests.refusals import paragraph
from workbench.options import option_fields
from workbench.plugins import find_plugin, list_plugins


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
