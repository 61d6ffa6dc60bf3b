"""Accuracy of real models of every task, and a candidate against the original by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import Cancelled, DatasetError, OptionsError
from workbench.importers import load_model
from workbench.measure.accuracy import (
    AccuracyOptions,
    Agreement,
    change_of,
    compare_predictions,
    measure_accuracy,
    score,
)
from workbench.measure.statistics import paired_p_value, share_interval
from workbench.model import Model
from workbench.workspace import Workspace

Shape = list[int | str]


def test_the_sample_scores_what_it_is_known_for(
    digits: Model, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    accuracy = measure_accuracy(build_engine(digits), evaluation, workspace=shared_workspace)

    assert accuracy.samples == 697
    assert accuracy.metric == "top-1"
    assert accuracy.value.value >= 0.98
    assert accuracy.value == share_interval(round(accuracy.value.value * 697), 697)
    assert 1 >= accuracy.others["top-5"] >= accuracy.value.value


def test_outputs_come_in_the_order_of_the_samples(tiny: Model, tiny_data: Dataset, workspace: Workspace) -> None:
    together = predict(build_engine(tiny), tiny_data, batch=5, workspace=workspace)

    np.testing.assert_array_equal(together["scores"], 2 * tiny_data.inputs["x"][:, :3])


def test_a_fixed_batch_is_filled_up(
    tmp_path: Path, model_file: Callable[..., Path], tiny_data: Dataset, workspace: Workspace
) -> None:
    fixed = load_model(model_file(tmp_path / "fixed.onnx", batch=5))
    outputs = predict(build_engine(fixed), tiny_data, workspace=workspace)

    np.testing.assert_array_equal(outputs["scores"], 2 * tiny_data.inputs["x"][:, :3])


def test_scoring_again_does_not_run_the_model(tiny: Model, tiny_data: Dataset, workspace: Workspace) -> None:
    heard: list[str] = []
    for _ in range(2):
        heard.clear()
        measure_accuracy(
            build_engine(tiny), tiny_data, workspace=workspace, progress=lambda _, message: heard.append(message)
        )
    assert heard == []


def test_a_cancelled_scoring_leaves_nothing(tiny: Model, tiny_data: Dataset, workspace: Workspace) -> None:
    def cancel(fraction: float, message: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        measure_accuracy(build_engine(tiny), tiny_data, workspace=workspace, progress=cancel)
    assert [path for path in workspace.root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "no labels"),
        ({"labels": np.full(12, 3)}, "from 3 to 3, but the model has 3 classes"),
        ({"inputs": {"y": np.ones((12, 4), np.float32)}}, "Name each array like the model's input"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    tiny: Model, tiny_data: Dataset, workspace: Workspace, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(DatasetError, match=words):
        measure_accuracy(build_engine(tiny), dataclasses.replace(tiny_data, **changes), workspace=workspace)


def test_agreement_needs_no_labels() -> None:
    original = {"scores": np.eye(2)[[0, 0, 1, 1, 0]]}
    candidate = {"scores": np.eye(2)[[0, 1, 0, 1, 1]]}

    assert compare_predictions(original, candidate) == Agreement(0.4, (1, 2, 4))


def test_a_change_counts_what_is_lost_and_gained() -> None:
    labels = np.array([0, 0, 1, 1, 1] * 40)
    dataset = Dataset({"x": np.zeros((200, 1))}, labels)
    before, after = labels.copy(), labels.copy()
    before[:5] = 1 - before[:5]
    after[3:20] = 1 - after[3:20]
    change = change_of(*(score({"scores": np.eye(2)[classes]}, dataset) for classes in (before, after)))

    assert (change.test, change.lost, change.gained) == ("McNemar", 15, 3)
    assert change.p_value == paired_p_value(15, 3)
    assert change.significant
    assert change.difference.value == pytest.approx(-6)
    assert change.difference.low < -6 < change.difference.high < 0


def test_a_small_loss_on_few_samples_is_no_fact() -> None:
    """0.2 points on 300 samples: one sample."""
    labels = np.zeros(300, int)
    dataset = Dataset({"x": np.zeros((300, 1))}, labels)
    after = labels.copy()
    after[0] = 1
    change = change_of(*(score({"scores": np.eye(2)[classes]}, dataset) for classes in (labels, after)))

    assert not change.significant
    assert change.difference.low < 0 < change.difference.high
    assert change_of(*(score({"scores": np.eye(2)[labels]}, dataset),) * 2).difference.high > 0


def test_the_tests_take_chance_for_chance() -> None:
    """Two regressors that err alike differ significantly about as often as a test at 5 % allows."""
    generator, found = np.random.default_rng(0), 0
    for _ in range(50):
        targets = generator.standard_normal(80)
        dataset = Dataset({"x": np.zeros((80, 1))}, targets)
        both = ({"y": targets + 0.5 * generator.standard_normal(80)} for _ in range(2))
        scores = [score(outputs, dataset, AccuracyOptions(task="regression")) for outputs in both]
        found += change_of(*scores).significant
    assert found <= 8


# --- models of other tasks, run for real -----------------------------------------------------------------------------


def saved(path: Path, nodes: list[onnx.NodeProto], inputs: dict[str, Shape], outputs: dict[str, Shape]) -> Model:
    """A model of plain float32 tensors; int64 where an output's name says classes."""
    kinds = {name: TensorProto.INT64 if name == "classes" else TensorProto.FLOAT for name in (*inputs, *outputs)}
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in outputs.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return load_model(path)


def test_a_regressor(tmp_path: Path, workspace: Workspace) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)
    model = saved(tmp_path / "mean.onnx", [node], {"x": ["batch", 4]}, {"y": ["batch", 1]})
    inputs = np.random.default_rng(0).random((50, 4)).astype(np.float32)
    dataset = Dataset({"x": inputs}, inputs.mean(axis=1) + 0.01)
    accuracy = measure_accuracy(build_engine(model), dataset, {"task": "regression"}, workspace=workspace)

    assert accuracy.metric == "R²"
    assert 0.99 < accuracy.value.value < 1
    assert accuracy.others["MAE"] == pytest.approx(0.01, rel=1e-4)


def test_a_segmenter(tmp_path: Path, workspace: Workspace) -> None:
    nodes = [helper.make_node("Neg", ["image"], ["dark"]), helper.make_node("Concat", ["dark", "image"], ["y"], axis=1)]
    model = saved(tmp_path / "bright.onnx", nodes, {"image": ["batch", 1, 8, 8]}, {"y": ["batch", 2, 8, 8]})
    image = np.random.default_rng(0).standard_normal((20, 1, 8, 8)).astype(np.float32)
    masks = (image[:, 0] > 0).astype(np.uint8)
    engine = build_engine(model)
    right, wrong = (
        measure_accuracy(engine, Dataset({"image": image}, labels), {"task": "segmentation"}, workspace=workspace)
        for labels in (masks, 1 - masks)
    )
    assert (right.metric, right.value.value, right.value.low) == ("mIoU", 1, 1)
    assert (wrong.value.value, wrong.others["pixel accuracy"]) == (0, 0)


def test_a_detector(tmp_path: Path, workspace: Workspace) -> None:
    """It passes on what it is given: boxes, scores and classes."""
    names = {"boxes": ["batch", 2, 4], "scores": ["batch", 2], "classes": ["batch", 2]}
    nodes = [helper.make_node("Identity", [f"{name}_in"], [name]) for name in ("boxes", "scores")]
    nodes.append(helper.make_node("Cast", ["classes_in"], ["classes"], to=TensorProto.INT64))
    model = saved(tmp_path / "boxes.onnx", nodes, {f"{name}_in": shape for name, shape in names.items()}, names)
    boxes = np.tile(np.array([[0, 0, 10, 10], [20, 20, 40, 30]], np.float32), (6, 1, 1))
    classes = np.tile(np.array([0, 1], np.float32), (6, 1))
    scores = np.full((6, 2), 0.9, np.float32)
    labels = np.concatenate([boxes, classes[..., None]], axis=2)
    labels[0, 1, :4] += 100  # one of six objects of class 1 is elsewhere
    inputs = {"boxes_in": boxes, "scores_in": scores, "classes_in": classes}
    accuracy = measure_accuracy(
        build_engine(model), Dataset(inputs, labels), {"task": "detection"}, workspace=workspace
    )

    assert accuracy.metric == "mAP"
    assert 0.8 < accuracy.value.value < 1
    assert accuracy.others["mAP50"] == pytest.approx(accuracy.value.value)
    assert accuracy.caveats == ("6 samples are too few for an interval to be relied on",)


def test_a_metric_of_ones_own(tiny: Model, tiny_data: Dataset, workspace: Workspace) -> None:
    def confident(outputs: Tensors, labels: np.ndarray | None) -> np.ndarray:
        return outputs["scores"].max(axis=1) / 4

    unlabelled = dataclasses.replace(tiny_data, labels=None)
    accuracy = measure_accuracy(build_engine(tiny), unlabelled, metric=confident, workspace=workspace)

    assert (accuracy.metric, accuracy.value.value) == ("confident", 0.5)


def test_another_output_is_scored_by_its_name(tiny: Model, tiny_data: Dataset, workspace: Workspace) -> None:
    with pytest.raises(OptionsError, match=r"no output 'score'\. Did you mean 'scores'\?"):
        measure_accuracy(build_engine(tiny), tiny_data, {"output": "score"}, workspace=workspace)
    assert measure_accuracy(build_engine(tiny), tiny_data, {"output": "scores"}, workspace=workspace).value.value == 1
