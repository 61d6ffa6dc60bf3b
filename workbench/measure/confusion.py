"""The confusion matrix of a classifier: which class it takes for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.measure.tasks import AccuracyOptions, classification, scored_output
from workbench.options import make_options

_MOST_CLASSES = 20  # a larger matrix is no longer read
_MOST_LINES = 10


def confusion_matrix(
    outputs: Tensors, dataset: Dataset, options: Mapping[str, Any] | AccuracyOptions | None = None
) -> NDArray[np.int64]:
    """Counts samples by label and predicted class.

    Args:
        outputs: A model's outputs, as `predict` gives them.
        dataset: The same samples, with labels.
        options: Which output is looked at.

    Returns:
        Counts, shape `(classes, classes)`: labels down, predictions across. Samples whose scores are NaN or infinite
        have no prediction and are not in it.

    Raises:
        DatasetError: The outputs are no class scores, or the labels do not fit them.
    """
    options = make_options(AccuracyOptions, options, "accuracy")
    labels = classification.check_labels(outputs, dataset, options)
    predicted = classification.as_labels(outputs, options)
    classes = scored_output(outputs, options).shape[1]
    valid = predicted != classification.NOTHING
    places = labels[valid] * classes + predicted[valid]
    counts: NDArray[np.int64] = np.bincount(places, minlength=classes**2).reshape(classes, classes)
    return counts


def confusion_text(counts: NDArray[Any]) -> str:
    """The matrix as lines, labels down and predictions across; of many classes, the most frequent mistakes."""
    if len(counts) > _MOST_CLASSES:
        return "\n".join(confusion_lines(counts)) or "no mistakes"
    width = max(len(str(counts.max(initial=0))), len(str(len(counts) - 1)))
    head = "label  " + " ".join(f"{number:>{width}}" for number in range(len(counts)))
    rows = (
        f"{number:>5}  " + " ".join(f"{count or '·':>{width}}" for count in row.tolist())
        for number, row in enumerate(counts)
    )
    return "\n".join([head, *rows])


def confusion_lines(counts: NDArray[Any], most: int = _MOST_LINES) -> list[str]:
    """The most frequent mistakes in words, the worst first."""
    mistakes = counts.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    places = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [
        f"{label} taken for {taken}: {mistakes[label, taken]} of {counts[label].sum()}"
        for label, taken in places
        if mistakes[label, taken]
    ]
