"""Classification: top-1 and top-k. Outputs are scores `(samples, classes)`, labels class numbers `(samples,)`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.dataset import check_labels as check_classes
from workbench.engine import Tensors
from workbench.errors import DatasetError
from workbench.jobs import Progress, silent
from workbench.measure.tasks import AccuracyOptions, Scores, scored_output

NOTHING = -1  # the class of a sample without valid scores: never right


def check_labels(outputs: Tensors, dataset: Dataset, options: AccuracyOptions) -> NDArray[np.int64]:
    """Class numbers below the number of scores.

    Raises:
        DatasetError: The output is not one score per class and sample, or the labels do not fit it.
    """
    scores = scored_output(outputs, options)
    if scores.ndim != 2 or len(scores) != len(dataset) or scores.shape[1] < 2:
        raise DatasetError(
            f"The model's output has shape {'×'.join(map(str, scores.shape))} for {len(dataset)} samples: "
            "not one score per class and sample.",
            "Choose the task that the model was trained for, or leave the labels away to compare outputs only.",
        )
    return check_classes(dataset, int(scores.shape[1]))


def as_labels(outputs: Tensors, options: AccuracyOptions) -> NDArray[np.int64]:
    """The predicted class of each row (of the last axis), `NOTHING` where its scores are NaN or infinite."""
    scores = scored_output(outputs, options)
    classes: NDArray[np.int64] = np.where(_invalid(scores), NOTHING, np.argmax(scores, axis=-1))
    return classes


def sample_scores(
    outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent
) -> NDArray[np.float64]:
    """1 where the class is the label; where a sample has several rows, the share of them."""
    hits = as_labels(outputs, options) == labels
    scores: NDArray[np.float64] = hits.reshape(len(hits), -1).mean(axis=1)
    return scores


def score(outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent) -> Scores:
    """Top-1, and top-k where there are more classes than that."""
    scores = scored_output(outputs, options)
    hits = sample_scores(outputs, labels, options)
    others = {}
    if 1 < options.top_k < scores.shape[1]:
        best = np.argpartition(scores, -options.top_k, axis=1)[:, -options.top_k :]
        found = (best == labels[:, None]).any(axis=1) & ~_invalid(scores)
        others[f"top-{options.top_k}"] = float(found.mean())
    return Scores("top-1", float(hits.mean()), hits, len(hits), None, others, int(_invalid(scores).sum()))


def _invalid(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows without a highest score; −∞ is what the logarithm of a vanishing probability gives."""
    top = np.max(scores, axis=-1)
    invalid: NDArray[np.bool_] = ~np.isfinite(top)
    return invalid
