"""Export from the command line, of a model or of a finished run, measured or not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.refusals import paragraph
from workbench.__main__ import main


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
