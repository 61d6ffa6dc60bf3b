"""Classification: top-1 and top-k against scikit-learn, and outputs that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, top_k_accuracy_score

from workbench.dataset import Dataset
from workbench.errors import DatasetError
from workbench.measure.accuracy import AccuracyOptions, accuracy_of, compare_predictions, score
from workbench.measure.statistics import share_interval


def samples(labels: np.ndarray | None, count: int = 0) -> Dataset:
    return Dataset({"x": np.zeros((count or len(labels), 1))}, labels)  # type: ignore[arg-type]


def test_top_1_and_top_k_are_scikit_learns() -> None:
    generator = np.random.default_rng(3)
    scores, labels = generator.standard_normal((200, 12)).astype(np.float32), generator.integers(0, 12, 200)
    accuracy = accuracy_of(score({"scores": scores}, samples(labels), AccuracyOptions(top_k=3)), samples(labels))

    hits = accuracy_score(labels, scores.argmax(1), normalize=False)
    assert (accuracy.metric, accuracy.value) == ("top-1", share_interval(int(hits), 200))
    assert accuracy.others == {"top-3": pytest.approx(top_k_accuracy_score(labels, scores, k=3, labels=range(12)))}
    assert accuracy.caveats == ()


def test_no_top_k_where_it_would_always_be_right() -> None:
    labels = np.arange(3)
    assert score({"scores": np.eye(3)}, samples(labels)).others == {}


def test_samples_without_valid_scores_are_wrong_and_counted() -> None:
    labels = np.array([0, 1, 0, 1])
    scores = np.eye(2)[labels]
    scores[0], scores[1, 0], scores[2] = np.nan, np.inf, [0, -np.inf]
    accuracy = accuracy_of(score({"scores": scores}, samples(labels)), samples(labels))

    assert (accuracy.value.value, accuracy.invalid) == (0.5, 2)
    assert accuracy.caveats[0] == "2 of 4 samples give NaN or infinite outputs; they count as wrong"
    assert compare_predictions({"scores": np.eye(2)[labels]}, {"scores": scores}).changed == (0, 1)
    assert compare_predictions({"scores": scores}, {"scores": scores}).share == 1


def test_one_sample_gives_an_interval_that_says_so() -> None:
    labels = np.array([1])
    accuracy = accuracy_of(score({"scores": np.eye(2)[labels]}, samples(labels)), samples(labels))

    assert accuracy.value.low < 0.3
    assert accuracy.caveats == ("one sample says nothing about others",)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.linspace(0, 1, 4), "shape 4 and type float64.*one class number per sample"),
        (np.eye(4, dtype=np.int64), "shape 4×4 and type int64.*not one-hot"),
        (np.array([0, 1, 2, -1]), "run from -1 to 2"),
        (np.array([0, 1, 2, 3]), r"has 3 classes \(0 to 2\)"),
        (None, "no labels"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray | None, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        score({"scores": np.zeros((4, 3))}, samples(labels, 4))


@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 1), (3, 3), (4,)])
def test_outputs_that_are_no_class_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="not one score per class and sample"):
        score({"scores": np.zeros(shape)}, samples(np.zeros(4, int)))
