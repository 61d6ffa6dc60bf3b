"""Accuracy, agreement and output error: on the real sample, and by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from workbench.backends import build_engine, predict
from workbench.dataset import Dataset
from workbench.errors import Cancelled, DatasetError
from workbench.importers import load_model
from workbench.measure.accuracy import Agreement, compare_predictions, measure_accuracy, output_error, score
from workbench.measure.statistics import share_interval
from workbench.model import Model
from workbench.workspace import Workspace


def test_the_sample_scores_what_it_is_known_for(
    digits: Model, evaluation: Dataset, shared_workspace: Workspace
) -> None:
    accuracy = measure_accuracy(build_engine(digits), evaluation, workspace=shared_workspace)

    assert accuracy.samples == 697
    assert accuracy.top1.value >= 0.98
    assert accuracy.top1 == share_interval(round(accuracy.top1.value * 697), 697)


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


def test_outputs_that_are_no_class_scores_are_refused(tiny_data: Dataset) -> None:
    with pytest.raises(DatasetError, match="12×3×2 for 12 samples: not one score per class"):
        score(np.ones((12, 3, 2)), tiny_data)
    with pytest.raises(DatasetError, match="12×1 for 12 samples"):
        score(np.ones((12, 1)), tiny_data)


def test_agreement_counts_what_changed_for_better_and_worse() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    dataset = Dataset({"x": np.zeros((5, 1))}, labels)
    original = np.eye(2)[[0, 0, 1, 1, 0]]
    candidate = np.eye(2)[[0, 1, 0, 1, 1]]

    assert compare_predictions(original, candidate, dataset) == Agreement(0.4, (1, 2, 4), lost=2, gained=1, p_value=1.0)
    unlabelled = dataclasses.replace(dataset, labels=None)
    assert compare_predictions(original, candidate, unlabelled) == Agreement(0.4, (1, 2, 4))


def test_output_error_by_hand() -> None:
    error = output_error(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))

    assert error.max_abs_error == 1
    assert error.cosine_similarity == pytest.approx((9 + 12) / (5 * np.sqrt(18)))
    assert error.sqnr_db == pytest.approx(10 * np.log10(25))


def test_equal_outputs_have_no_error() -> None:
    error = output_error(np.ones((2, 3), np.float16), np.ones((2, 3), np.float32))

    assert (error.max_abs_error, error.cosine_similarity, error.sqnr_db) == (0, pytest.approx(1), None)
    assert output_error(np.zeros(3), np.zeros(3)).cosine_similarity == 1
