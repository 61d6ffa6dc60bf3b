"""Segmentation: mIoU against scikit-learn, every layout of outputs, and masks that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from workbench.dataset import Dataset
from workbench.errors import DatasetError
from workbench.measure.accuracy import AccuracyOptions, accuracy_of, change_of, compare_predictions, score

SEGMENTATION = AccuracyOptions(task="segmentation")
GENERATOR = np.random.default_rng(1)
MASKS = GENERATOR.integers(0, 3, (12, 6, 8))
GUESSES = np.where(GENERATOR.random(MASKS.shape) < 0.7, MASKS, GENERATOR.integers(0, 3, MASKS.shape))


def samples(labels: np.ndarray | None = MASKS) -> Dataset:
    return Dataset({"x": np.zeros((12, 1))}, labels)


def scores_of(masks: np.ndarray, classes: int = 3) -> np.ndarray:
    """Scores per class, (samples, classes, height, width)."""
    return np.eye(classes, dtype=np.float32)[masks].transpose(0, 3, 1, 2)


def test_the_metrics_are_scikit_learns() -> None:
    accuracy = accuracy_of(score({"y": scores_of(GUESSES)}, samples(), SEGMENTATION), samples())
    each = jaccard_score(MASKS.ravel(), GUESSES.ravel(), average=None)

    assert (accuracy.metric, accuracy.samples) == ("mIoU", 12)
    assert accuracy.value.value == pytest.approx(each.mean())
    assert accuracy.value.low < each.mean() < accuracy.value.high
    assert accuracy.others == {
        "pixel accuracy": pytest.approx(accuracy_score(MASKS.ravel(), GUESSES.ravel())),
        **{f"IoU of {name}": pytest.approx(value) for name, value in enumerate(each)},
    }


@pytest.mark.parametrize(
    "output",
    [
        scores_of(GUESSES).transpose(0, 2, 3, 1),
        GUESSES,
        GUESSES[:, None].astype(np.uint8),
        GUESSES[..., None].astype(np.int32),
    ],
    ids=["classes last", "map", "map with an axis", "map with a last axis"],
)
def test_every_layout_gives_the_same(output: np.ndarray) -> None:
    expected = score({"y": scores_of(GUESSES)}, samples(), SEGMENTATION)
    found = score({"y": output}, samples(), SEGMENTATION)

    assert (found.value, found.others) == (expected.value, expected.others)


def test_classes_that_never_occur_do_not_count() -> None:
    found = score({"y": scores_of(GUESSES, classes=9)}, samples(), SEGMENTATION)
    assert found.value == score({"y": scores_of(GUESSES)}, samples(), SEGMENTATION).value
    assert "IoU of 5" not in found.others


@pytest.mark.parametrize("ignored", [-1, 255])
def test_pixels_of_the_ignored_label_do_not_count(ignored: int) -> None:
    masks = np.where(MASKS == 2, ignored, MASKS)
    found = score({"y": GUESSES}, samples(masks), AccuracyOptions(task="segmentation", ignore_label=ignored))

    counted = masks != ignored
    assert found.others["pixel accuracy"] == pytest.approx(accuracy_score(MASKS[counted], GUESSES[counted]))
    assert found.value == pytest.approx(
        jaccard_score(MASKS[counted], GUESSES[counted], average=None, labels=[0, 1, 2]).mean()
    )


def test_pixels_without_valid_scores_are_wrong_and_their_samples_counted() -> None:
    outputs = scores_of(MASKS)
    outputs[4, 1, :2] = np.nan
    found = score({"y": outputs}, samples(), SEGMENTATION)

    assert found.invalid == 1
    assert found.others["pixel accuracy"] == pytest.approx(1 - 16 / MASKS.size)
    assert compare_predictions({"y": scores_of(MASKS)}, {"y": outputs}, SEGMENTATION).changed == (4,)
    assert compare_predictions({"y": outputs}, {"y": scores_of(MASKS)}, SEGMENTATION).changed == (4,)
    assert compare_predictions({"y": outputs}, {"y": outputs}, SEGMENTATION).changed == ()


def test_a_candidate_that_is_worse_on_every_sample_is_told_from_chance() -> None:
    worse = np.where(GENERATOR.random(MASKS.shape) < 0.5, GUESSES, 0)
    before, after = (score({"y": scores_of(masks)}, samples(), SEGMENTATION) for masks in (GUESSES, worse))
    change = change_of(before, after, 0.05)

    assert (change.test, change.gained) == ("bootstrap", 0)
    assert change.lost >= 10
    assert change.difference.value == pytest.approx(100 * (after.value - before.value))
    assert change.difference.high < 0
    assert change.significant
    same = change_of(before, before, 0.05)
    assert (same.difference.value, same.p_value, same.lost, same.gained) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("labels", "output", "words"),
    [
        (None, GUESSES, "no labels"),
        (MASKS[:, :3], GUESSES, "have 3×8 pixels where the model gives 6×8"),
        (MASKS.astype(float), GUESSES, "type float64.*the class of each pixel"),
        (MASKS[:, 0], GUESSES, "shape 12×8"),
        (MASKS + 1, scores_of(GUESSES), "run from 1 to 3, but the model has 3 classes.*`ignore_label`"),
        (np.full_like(MASKS, -1), GUESSES, "No pixel of samples counts"),
        (MASKS, GUESSES[:, None].astype(np.float32), "12×1×6×8 and type float32: neither a score"),
        (MASKS, np.zeros((12, 3), np.float32), "12×3 and type float32: neither a score"),
    ],
)
def test_what_cannot_be_scored_is_refused(labels: np.ndarray | None, output: np.ndarray, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        score({"y": output}, samples(labels), SEGMENTATION)
