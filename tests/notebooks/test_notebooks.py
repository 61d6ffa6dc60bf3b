"""The notebooks, executed by papermill as `make run` and a batch job do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from tests.serving.proxies import get_programs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PATIENCE = 540  # s; a lesson takes one or two minutes on a machine at rest

pytestmark = pytest.mark.timeout(PATIENCE + 60)


def execute(notebook: str, folder: Path, **parameters: Any) -> subprocess.CompletedProcess[str]:
    """Runs a notebook in a folder of its own."""
    (folder / "parameters.yaml").write_text(yaml.safe_dump({"workspace": str(folder / "space"), **parameters}))
    command = [
        *("papermill", str(NOTEBOOKS / notebook), str(folder / "out.ipynb")),
        "-k",
        "python3",
        "--no-progress-bar",
    ]
    command += ["-f", str(folder / "parameters.yaml")]
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=folder, timeout=PATIENCE
    )


def printed(folder: Path) -> str:
    """Everything that an executed notebook printed."""
    notebook = nbformat.read(folder / "out.ipynb", as_version=4)
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.heavy
def test_the_tour_ends_with_the_table_and_a_package_that_answered(tmp_path: Path) -> None:
    done = execute("tour.ipynb", tmp_path, seconds=0.3, summary=str(tmp_path / "table.txt"))
    assert done.returncode == 0, done.stderr[-3000:]
    table = (tmp_path / "table.txt").read_text()
    for word in ("original", "int8 static", "int8 dynamic", "fp16", "speed-up", "200, as expected"):
        assert word in table
    report = tmp_path / "out.html"
    convert = [
        "nbconvert",
        "--config",
        str(NOTEBOOKS / "report_config.py"),
        "--to",
        "html",
        str(tmp_path / "out.ipynb"),
    ]
    subprocess.run([sys.executable, "-m", "jupyter", *convert], check=True, capture_output=True)
    assert "Accuracy against latency" in report.read_text()
    assert "unpkg" not in report.read_text()


@pytest.mark.heavy
def test_measuring_ends_with_reasons_and_a_report(tmp_path: Path) -> None:
    done = execute("measure.ipynb", tmp_path, seconds=0.3, load_seconds=0.3, report=str(tmp_path / "report.html"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = printed(tmp_path)
    for words in ("✓ provider", "McNemar", "QLinearConv", "dynamic_convolutions", "Poisson", "Highest throughput"):
        assert words in said
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "quantized dynamically" in page
    assert "cdn.bokeh.org" not in page


@pytest.mark.heavy
def test_quantizing_shows_where_it_hurts_and_what_is_slower(tmp_path: Path) -> None:
    done = execute("quantize.ipynb", tmp_path, samples=48, seconds=0.3)
    assert done.returncode == 0, done.stderr[-3000:]
    said = printed(tmp_path)
    for words in ("entropy", "TensorRT takes signed", "stem/conv"):
        assert words in said
    assert re.search(r"coarse: .* with \d+ layers in float: the budget of 0.5 holds", said)
    assert "not int8 dynamic: it is " in said  # slower, or on a busy machine not clearly faster


@pytest.mark.heavy
def test_the_engines_agree_and_a_broken_plan_is_built_again(tmp_path: Path) -> None:
    done = execute("engines.ipynb", tmp_path, seconds=0.3, targets=["SM86", "SM120"])
    assert done.returncode == 0, done.stderr[-3000:]
    said = printed(tmp_path)
    for backend in ("litert", "mnn", "onnxruntime", "openvino", "pytorch"):
        assert re.search(rf"{backend} +largest difference to onnxruntime", said), backend
    for words in (
        "int8     SM120",
        "SM75 has no matrix products in float32",
        "chosen: ",
        "×",
        "built again from its model",
    ):
        assert words in said


@pytest.mark.heavy
def test_serving_swaps_promotes_and_rolls_back(tmp_path: Path) -> None:
    get_programs()
    done = execute("serve.ipynb", tmp_path, seconds=0.3, load_seconds=3.0)
    assert done.returncode == 0, done.stderr[-3000:]
    said = printed(tmp_path)
    assert "the most over HTTP with" in said  # what the numbers were derived from
    assert re.search(r"[1-9]\d* answered, 0 lost; versions served now: 1, 2", said)
    assert "promoted: Every step held; the canary has all callers." in said
    assert "rolled back: " in said
    assert len(re.findall(r"callers: [1-9]\d* answered, 0 lost, 0 refused", said)) == 2


@pytest.mark.heavy
def test_pruning_and_distilling_end_with_a_choice(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = execute("prune_distil.ipynb", tmp_path, epochs=1, seconds=0.3)
    assert done.returncode == 0, done.stderr[-3000:]
    said = printed(tmp_path)
    for words in ("recovered", "parameters are gone", "fewer weights", "chosen: "):
        assert words in said


def test_a_missed_gate_fails_the_batch_notebook_after_the_table(tmp_path: Path) -> None:
    half = [{"name": "fp16", "transforms": ["float16"]}]
    done = execute("batch.ipynb", tmp_path, candidates=half, latency={"seconds": 0.3}, gates={"max_size_mb": 0.1})
    assert done.returncode != 0
    # Whichever is chosen is larger; on a busy machine that may be the other one.
    assert re.search(r"max_size_mb: 0\.\d+ against a limit of 0\.1, missed by 0\.\d+", done.stderr)
    assert "result" in printed(tmp_path)


def test_the_dashboard_runs(tmp_path: Path) -> None:
    assert execute("dashboard.ipynb", tmp_path).returncode == 0


@pytest.mark.heavy
def test_models_of_two_frameworks_come_in_and_are_compared(tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx")
    done = execute("import.ipynb", tmp_path, epochs=2, seconds=0.2)
    assert done.returncode == 0, done.stderr[-3000:]
    said = printed(tmp_path)
    assert "Converted from PyTorch" in said
    assert "Converted from Keras" in said
    assert "whole.pt holds more than tensors" in said
    assert "images as NCHW (channels first), where training had NHWC" in said
    assert "Keras, simplified" in said


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
