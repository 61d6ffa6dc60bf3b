"""Regression: R², MAE and RMSE. Labels are targets, `(samples,)` or `(samples, …)` like the output.

R² is the mean over the targets of a sample where these stand in one row, as `sklearn.metrics.r2_score` has it; maps
with more axes are taken as one quantity. A sample with NaN or infinite outputs counts as if the mean had been guessed,
which is what R² calls worthless (0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset, require_labels
from workbench.engine import Tensors
from workbench.errors import DatasetError
from workbench.jobs import Progress, silent
from workbench.measure.tasks import AccuracyOptions, Scores, draw_sums, scored_output

_FORM = "the targets of each sample"


def check_labels(outputs: Tensors, dataset: Dataset, options: AccuracyOptions) -> NDArray[np.float64]:
    """Targets in the shape of the output.

    Raises:
        DatasetError: Their shape is another one, or they are NaN or infinite.
    """
    labels, output = require_labels(dataset, _FORM), scored_output(outputs, options)
    if _without_ones(labels.shape) != _without_ones(output.shape):
        raise DatasetError(
            f"The labels of {dataset.name} have shape {'×'.join(map(str, labels.shape))} where the model's output has "
            f"{'×'.join(map(str, output.shape))}.",
            f"Give {_FORM} in the shape of the output, or choose the task that the labels are for.",
        )
    bad = int((~np.isfinite(labels.reshape(len(labels), -1))).any(axis=1).sum())
    if bad:
        raise DatasetError(
            f"The targets of {bad} of {len(dataset)} samples in {dataset.name} are NaN or infinite.",
            "Remove or repair those samples.",
        )
    return labels.astype(np.float64).reshape(output.shape)


def as_labels(outputs: Tensors, options: AccuracyOptions) -> NDArray[np.float64]:
    """The output itself."""
    return scored_output(outputs, options).astype(np.float64)


def sample_scores(
    outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent
) -> NDArray[np.float64]:
    """1 − squared error ÷ variance of the target: their mean is R². At most 0 where only the output is not finite."""
    targets, guesses, broken = _columns(outputs, labels, options)
    parts = _parts(targets, guesses)
    total = parts.sum(axis=0)
    variance = total[_SQUARES] / total[_COUNT]
    scores: NDArray[np.float64] = _share(parts[:, _ERRORS] / parts[:, _COUNT], variance).mean(axis=-1)
    without = ~np.isfinite(labels.reshape(len(labels), -1)).all(axis=1)
    scores[broken | without] = np.minimum(scores[broken | without], 0)
    scores[broken & without] = 1.0  # alike: the labels may be another model's outputs
    return scores


def score(outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent) -> Scores:
    """R², and the errors in the unit of the targets."""
    from sklearn import metrics

    targets, guesses, broken = _columns(outputs, labels, options)
    parts = _parts(targets, guesses)
    errors = {
        "MAE": float(metrics.mean_absolute_error(targets.ravel(), guesses.ravel())),
        "RMSE": float(metrics.root_mean_squared_error(targets.ravel(), guesses.ravel())),
    }
    samples = sample_scores(outputs, labels, options)
    draws = _r2(draw_sums(parts.reshape(len(parts), -1)).reshape(-1, *parts.shape[1:]))
    return Scores("R²", float(_r2(parts.sum(axis=0))), samples, len(samples), draws, errors, int(broken.sum()))


# What a sample adds for each target: how many values, their deviation from the mean, its square, the squared error.
_COUNT, _SUM, _SQUARES, _ERRORS = range(4)


def _columns(
    outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Targets and guesses, `(samples, targets, values)` each, and which samples' outputs are not finite."""
    output = scored_output(outputs, options).astype(np.float64)
    one = len(_without_ones(output.shape)) > 2
    shape = (len(output), 1, -1) if one else (len(output), -1, 1)
    targets, guesses = labels.astype(np.float64).reshape(shape), output.reshape(shape)
    finite = np.isfinite(targets)
    count = np.maximum(finite.sum(axis=(0, 2), keepdims=True), 1)
    mean = np.where(finite, targets, 0.0).sum(axis=(0, 2), keepdims=True) / count
    targets = np.where(finite, targets, mean)
    broken: NDArray[np.bool_] = np.asarray(~np.isfinite(guesses).all(axis=(1, 2)))
    return targets, np.where(broken[:, None, None], mean, guesses), broken


def _parts(targets: NDArray[np.float64], guesses: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = targets - targets.mean(axis=(0, 2), keepdims=True)
    parts = (np.ones_like(targets), deviation, deviation**2, (targets - guesses) ** 2)
    return np.stack([part.sum(axis=2) for part in parts], axis=1)


def _r2(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """R² of summed parts, shape `(…, 4, targets)`."""
    count, total, squares, errors = np.moveaxis(parts, -2, 0)
    spread = squares - total**2 / count
    r2: NDArray[np.float64] = _share(errors, np.where(spread > 1e-12 * squares, spread, 0.0)).mean(axis=-1)
    return r2


def _share(errors: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 − errors ÷ spread; where nothing is spread, 1 for what is met and 0 for the rest, as scikit-learn has it."""
    constant = spread == 0
    share: NDArray[np.float64] = np.where(
        constant, np.equal(errors, 0).astype(float), 1 - errors / np.where(constant, 1.0, spread)
    )
    return share


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + tuple(size for size in shape[1:] if size != 1)
