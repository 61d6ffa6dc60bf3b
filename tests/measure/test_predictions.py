"""Changed samples and the confusion matrix as data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as reference

from workbench.dataset import Dataset
from workbench.errors import DatasetError, OptionsError
from workbench.measure.confusion import confusion_lines, confusion_matrix, confusion_text
from workbench.measure.predictions import ChangedSample, Prediction, changed_samples, probabilities


def samples(labels: np.ndarray | None, count: int = 0) -> Dataset:
    return Dataset({"x": np.zeros((count or len(labels), 1))}, labels)  # type: ignore[arg-type]


def certain(classes: list[int], of: int = 3) -> dict[str, np.ndarray]:
    """Probabilities: 0.8 for the class."""
    return {"p": np.full((len(classes), of), 0.2 / (of - 1)) + np.eye(of)[classes] * (0.8 - 0.2 / (of - 1))}


# --- changed samples -------------------------------------------------------------------------------------------------


def test_lost_ones_come_first_then_gained_then_the_rest() -> None:
    dataset = samples(np.array([0, 1, 2, 0, 1]))
    found = changed_samples(certain([0, 0, 2, 1, 2]), certain([0, 1, 0, 2, 2]), dataset)

    assert [(sample.number, sample.verdict) for sample in found] == [(2, "lost"), (1, "gained"), (3, "changed")]
    assert found[0] == ChangedSample(
        2, "2", Prediction("2", pytest.approx(0.8)), Prediction("0", pytest.approx(0.8)), "lost"
    )


def test_without_labels_they_have_only_changed() -> None:
    found = changed_samples(certain([0, 1]), certain([0, 2]), samples(None, 2))
    assert [(sample.number, sample.label, sample.verdict) for sample in found] == [(1, "", "changed")]


def test_a_sample_without_valid_scores_says_so() -> None:
    broken = certain([0, 1])
    broken["p"][1] = np.nan
    [found] = changed_samples(certain([0, 1]), broken, samples(np.array([0, 1])))

    assert (found.after, found.verdict) == (Prediction("NaN", None), "lost")


def test_probabilities_stay_and_scores_become_some() -> None:
    given = certain([0, 1])["p"]
    assert probabilities(given) is not None
    np.testing.assert_array_equal(probabilities(given), given)
    np.testing.assert_allclose(probabilities(np.log(given) + 5), given)
    np.testing.assert_allclose(probabilities(np.array([[1000.0, 0.0]])), [[1, 0]])


def test_of_a_regressor_the_values_show() -> None:
    targets = np.linspace(0, 1, 11)
    before, after = targets[:, None].copy(), targets[:, None].copy()
    after[4], before[7] = 0.9, 0.1
    found = changed_samples({"y": before}, {"y": after}, samples(targets), {"task": "regression"})

    assert [(s.number, s.label, s.before.text, s.after.text, s.verdict) for s in found] == [
        (4, "0.4", "0.4", "0.9", "lost"),
        (7, "0.7", "0.1", "0.7", "gained"),
    ]


def test_of_a_segmenter_the_overlap_shows() -> None:
    masks = np.tile(np.array([[0, 1], [0, 1]]), (4, 1, 1))
    worse = masks.copy()
    worse[2, 0, 0] = 1
    [found] = changed_samples({"y": masks}, {"y": worse}, samples(masks), {"task": "segmentation"})

    assert (found.number, found.label, found.before.text, found.after.text) == (2, "", "IoU 1.00", "IoU 0.58")


def test_options_are_checked() -> None:
    with pytest.raises(OptionsError, match="accuracy has no option 'tsk'"):
        changed_samples(certain([0]), certain([0]), samples(np.array([0])), {"tsk": "regression"})


# --- confusion -------------------------------------------------------------------------------------------------------


def test_the_matrix_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 6, 80), generator.random((80, 6))

    counts = confusion_matrix({"y": scores}, samples(labels))
    np.testing.assert_array_equal(counts, reference(labels, scores.argmax(1), labels=range(6)))


def test_samples_without_a_prediction_are_not_in_it() -> None:
    scores = np.array([[0.9, 0.1], [np.nan, 0.5], [0.2, 0.8]])
    np.testing.assert_array_equal(confusion_matrix({"y": scores}, samples(np.array([0, 1, 0]))), [[1, 1], [0, 0]])


def test_it_reads_as_text() -> None:
    assert confusion_text(np.array([[10, 2], [0, 7]])) == "label   0  1\n    0  10  2\n    1   ·  7"


def test_of_many_classes_the_worst_mistakes_are_told() -> None:
    counts = np.diag(np.full(30, 5))
    assert confusion_text(counts) == "no mistakes"
    counts[3, 4], counts[20, 1] = 2, 4
    assert confusion_text(counts).splitlines() == ["20 taken for 1: 4 of 9", "3 taken for 4: 2 of 7"]
    assert confusion_lines(counts, most=1) == ["20 taken for 1: 4 of 9"]


def test_it_needs_class_labels() -> None:
    with pytest.raises(DatasetError, match="no labels"):
        confusion_matrix(certain([0, 1]), samples(None, 2))
