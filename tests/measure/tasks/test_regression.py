"""Regression: R², MAE and RMSE against scikit-learn, and targets and outputs that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from workbench.dataset import Dataset
from workbench.errors import DatasetError
from workbench.measure.accuracy import AccuracyOptions, accuracy_of, compare_predictions, score

REGRESSION = AccuracyOptions(task="regression")


def samples(labels: np.ndarray | None, count: int = 0) -> Dataset:
    return Dataset({"x": np.zeros((count or len(labels), 1))}, labels)  # type: ignore[arg-type]


def noisy(shape: tuple[int, ...], error: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    targets = 100 + generator.standard_normal(shape)
    return targets, (targets + error * generator.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(80,), (80, 1), (80, 3)])
def test_the_metrics_are_scikit_learns(shape: tuple[int, ...]) -> None:
    targets, guesses = noisy(shape)
    accuracy = accuracy_of(score({"y": guesses}, samples(targets), REGRESSION), samples(targets))

    assert (accuracy.metric, accuracy.samples) == ("R²", 80)
    assert accuracy.value.value == pytest.approx(r2_score(targets, guesses))
    assert accuracy.value.low < accuracy.value.value < accuracy.value.high < 1
    rmse = root_mean_squared_error(targets.ravel(), guesses.ravel())
    assert accuracy.others == {"MAE": pytest.approx(mean_absolute_error(targets, guesses)), "RMSE": pytest.approx(rmse)}


def test_maps_are_one_quantity() -> None:
    targets, guesses = noisy((20, 4, 5))
    scores = score({"y": guesses[:, None]}, samples(targets), REGRESSION)

    assert scores.value == pytest.approx(r2_score(targets.ravel(), guesses.ravel()))
    assert scores.samples.mean() == pytest.approx(scores.value)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Errors of half a standard deviation make an R² of 0.75 in the long run."""
    generator, covered = np.random.default_rng(7), 0
    for _ in range(100):
        targets = generator.standard_normal(100)
        guesses = {"y": targets + 0.5 * generator.standard_normal(100)}
        value = accuracy_of(score(guesses, samples(targets), REGRESSION), samples(targets)).value
        covered += value.low <= 0.75 <= value.high
    assert covered >= 88


def test_outputs_that_are_not_finite_count_as_the_mean_and_are_named() -> None:
    targets, guesses = noisy((10, 1), error=0.0)
    guesses[[2, 5]] = [[np.nan], [np.inf]]
    accuracy = accuracy_of(score({"y": guesses}, samples(targets[:, 0]), REGRESSION), samples(targets))

    meant = np.where(np.isfinite(guesses), guesses, targets.mean())
    assert accuracy.value.value == pytest.approx(r2_score(targets, meant))
    assert accuracy.others["MAE"] == pytest.approx(mean_absolute_error(targets, meant))
    assert accuracy.caveats[0] == "2 of 10 samples give NaN or infinite outputs; they count as wrong"
    whole = accuracy_of(score({"y": np.full((10, 1), np.nan)}, samples(targets), REGRESSION), samples(targets))
    assert whole.value.value == pytest.approx(0)
    assert compare_predictions({"y": targets}, {"y": guesses}, REGRESSION).changed == (2, 5)
    assert compare_predictions({"y": guesses}, {"y": targets}, REGRESSION).changed == (2, 5)
    assert compare_predictions({"y": guesses}, {"y": guesses}, REGRESSION).changed == ()


def test_a_prediction_has_changed_beyond_the_tolerance() -> None:
    before = np.linspace(-1, 1, 21)[:, None]
    after = before.copy()
    after[3] += 0.05
    after[4] += 0.5

    assert compare_predictions({"y": before}, {"y": after}, REGRESSION).changed == (4,)
    strict = AccuracyOptions(task="regression", tolerance=0)
    assert compare_predictions({"y": before}, {"y": after}, strict).changed == (3, 4)


@pytest.mark.parametrize(("guess", "value"), [(2.0, 1.0), (2.5, 0.0)])
def test_one_sample_leaves_everything_open(guess: float, value: float) -> None:
    one = samples(np.array([2.0]))
    accuracy = accuracy_of(score({"y": np.array([[guess]])}, one, REGRESSION), one)

    assert (accuracy.value.low, accuracy.value.value, accuracy.value.high) == (0, value, 1)
    assert accuracy.caveats == ("one sample says nothing about others",)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([1.0, np.nan, 2.0, np.inf]), "targets of 2 of 4 samples in samples are NaN or infinite"),
        (np.zeros((4, 2)), "shape 4×2 where the model's output has 4×1"),
        (None, "no labels"),
    ],
)
def test_targets_that_cannot_be_scored_are_refused(labels: np.ndarray | None, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        score({"y": np.zeros((4, 1))}, samples(labels, 4), REGRESSION)
