"""Accuracy of a task through every surface: compare, report, gates, recipe and command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from workbench.backends import build_engine
from workbench.comparison import Candidate, Comparison, compare
from workbench.dataset import Dataset
from workbench.errors import GateError, OptionsError, RecipeError
from workbench.gates import Gates, evaluate_gates
from workbench.importers import load_model
from workbench.recipe import read_recipe, run_recipe
from workbench.report import comparison_text, headings, table_row
from workbench.workspace import Workspace

REGRESSION = {"task": "regression"}
QUICK = {"seconds": 0.2, "launches": 1}
CommandLine = Callable[..., subprocess.CompletedProcess[str]]


def regressor(path: Path, slope: float) -> Path:
    """`y` is the first value of `x` times a slope; for a slope of 0, 0 ÷ 0 where that value is above 1."""
    factor = numpy_helper.from_array(np.array([[slope or 1.0], [0.0]], np.float32), "factor")
    one = numpy_helper.from_array(np.array(1.0, np.float32), "one")
    nodes = [helper.make_node("MatMul", ["x", "factor"], ["y" if slope else "plain"])]
    if not slope:
        nodes += [
            helper.make_node("LessOrEqual", ["plain", "one"], ["small"]),
            helper.make_node("Cast", ["small"], ["keep"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["keep", "keep"], ["valid"]),
            helper.make_node("Mul", ["plain", "valid"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [factor, one],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((60, 2)).astype(np.float32)
    return Dataset({"x": inputs}, inputs[:, 0] + 0.3 * generator.standard_normal(60), "line")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Comparison:
    folder = tmp_path_factory.mktemp("regressors")
    slopes = {"original": 1.0, "flat": 0.5, "broken": 0.0}
    candidates = [
        Candidate(name, build_engine(load_model(regressor(folder / f"{name}.onnx", slope)), options={"threads": 1}))
        for name, slope in slopes.items()
    ]
    return compare(candidates, data, QUICK, accuracy=REGRESSION, workspace=Workspace(folder / "workspace"))


def test_the_table_names_the_metric_of_the_task(measured: Comparison) -> None:
    original, flat, _ = measured.rows

    assert headings(measured)[3] == "R²"
    assert original.accuracy
    assert flat.change
    assert flat.change.test == "bootstrap"
    assert flat.change.significant
    assert flat.change.lost
    points = f"{flat.change.difference.value:+.1f}".replace("-", "−")
    assert table_row(measured, flat)[3].text == f"{100 * flat.quality:.1f} % ({points})"
    assert "MAE 0." in table_row(measured, flat)[3].note


def test_a_candidate_with_nan_outputs_is_told_and_the_others_go_on(measured: Comparison, data: Dataset) -> None:
    _, flat, broken = measured.rows
    above = int((data.inputs["x"][:, 0] > 1).sum())

    assert flat.accuracy
    assert flat.accuracy.invalid == 0
    assert broken.accuracy
    assert broken.accuracy.invalid == above
    assert broken.agreement
    assert len(broken.agreement.changed) == above
    assert broken.output_error
    assert (broken.output_error.invalid, broken.output_error.max_abs_error) == (above, 0)
    assert f"broken: {above} of 60 samples give NaN or infinite outputs; they count as wrong." in comparison_text(
        measured
    )


def test_a_gate_holds_the_headline_metric(measured: Comparison) -> None:
    assert measured.original.accuracy
    [gate] = evaluate_gates(Gates(min_accuracy=80), measured, measured.original)
    assert gate.measured == pytest.approx(100 * measured.original.accuracy.value.value)


def test_a_metric_of_ones_own_is_never_taken_from_an_earlier_run(
    measured: Comparison, data: Dataset, tmp_path: Path
) -> None:
    shares = [0.25, 0.75]

    def share(outputs: Any, labels: Any) -> Any:
        return np.full(len(labels), shares[0])

    workspace = Workspace(tmp_path / "workspace")
    first = compare([measured.original.candidate], data, QUICK, metric=share, workspace=workspace)
    shares.pop(0)
    second = compare([measured.original.candidate], data, QUICK, metric=share, workspace=workspace)

    assert [each.original.accuracy.value.value for each in (first, second)] == [0.25, 0.75]  # type: ignore[union-attr]


def test_a_recipe_says_what_the_model_is_for(tmp_path: Path, data: Dataset) -> None:
    regressor(tmp_path / "line.onnx", 1.0)
    np.savez(tmp_path / "line.npz", x=data.inputs["x"], labels=data.labels)  # type: ignore[arg-type]
    recipe = {"model": str(tmp_path / "line.onnx"), "data": str(tmp_path / "line.npz"), "latency": QUICK}
    run = run_recipe({**recipe, "accuracy": REGRESSION, "gates": {"min_accuracy": 99}})

    assert run.comparison.original.accuracy
    assert run.comparison.original.accuracy.metric == "R²"
    with pytest.raises(GateError, match="misses 1 gate: min_accuracy"):
        run.check_gates()


def test_the_command_line_scores_any_task(tmp_path: Path, data: Dataset, command_line: CommandLine) -> None:
    regressor(tmp_path / "line.onnx", 1.0)
    np.savez(tmp_path / "line.npz", x=data.inputs["x"], labels=data.labels)  # type: ignore[arg-type]
    ended = command_line("accuracy", "line.onnx", "--data", "line.npz", "--task", "regression")

    assert ended.returncode == 0
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["R²", "MAE", "RMSE"]


def test_the_command_line_shows_what_is_taken_for_what(command_line: CommandLine, digits_file: Path) -> None:
    ended = command_line("accuracy", "sample:digits", "--data", digits_file, "--confusion")

    assert ended.returncode == 0
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("top-1")
    assert [line.split()[0] for line in lines[-11:]] == ["label", *map(str, range(10))]


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        ({"task": "clasify"}, r"accuracy\.task = 'clasify'.*Choose one of classification"),
        ({"topk": 3}, r"accuracy has no option 'topk'.*Did you mean 'top_k'"),
        ({"top_k": 0}, r"accuracy\.top_k = 0.*from 1 to 1000"),
    ],
)
def test_what_a_recipe_cannot_say_of_accuracy_is_refused(accuracy: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_recipe({"model": "sample:digits", "data": "sample:digits", "accuracy": accuracy})


def test_compare_checks_before_it_measures(measured: Comparison, data: Dataset) -> None:
    with pytest.raises(OptionsError, match="task 'custom' without a metric"):
        compare([measured.original.candidate], data, accuracy={"task": "custom"})
