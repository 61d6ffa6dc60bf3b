"""Segmentation: mIoU. Labels are masks of class numbers `(samples, height, width)`.

The output holds a score per class and pixel, `(samples, classes, height, width)` or `(samples, height, width,
classes)`; or the class of each pixel as an integer, `(samples, height, width)`, perhaps with an axis of size 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.dataset import check_labels as check_classes
from workbench.engine import Tensors
from workbench.errors import DatasetError
from workbench.jobs import Progress, silent
from workbench.measure.tasks import AccuracyOptions, Scores, draw_sums, scored_output

_FORM = "the class of each pixel"
_MANY = 65536  # classes, where the output does not say how many there are
_NOTHING = -2  # the class of a pixel without valid scores: never right, and unlike any label


def check_labels(outputs: Tensors, dataset: Dataset, options: AccuracyOptions) -> NDArray[Any]:
    """Masks of the output's size, with classes that it knows or the label that does not count.

    Raises:
        DatasetError: The output holds no classes of pixels, or the labels do not fit it.
    """
    size = () if dataset.labels is None else dataset.labels.shape[1:]
    masks, output = as_labels(outputs, options, size), scored_output(outputs, options)
    classes = _MANY if _is_map(output) else output.shape[_class_axis(output, size)]
    labels = check_classes(dataset, classes, _FORM, axes=3, ignored=options.ignore_label)
    if masks.shape != labels.shape:
        raise DatasetError(
            f"The masks of {dataset.name} have {'×'.join(map(str, labels.shape[1:]))} pixels where the model gives "
            f"{'×'.join(map(str, masks.shape[1:]))}.",
            "Resize the masks (nearest neighbour) to the model's output, or let the model resize its output.",
        )
    if not (labels != options.ignore_label).any():
        raise DatasetError(
            f"No pixel of {dataset.name} counts: all have the label {options.ignore_label}.",
            "Check the masks, or `ignore_label`.",
        )
    return labels


def as_labels(outputs: Tensors, options: AccuracyOptions, size: tuple[int, ...] = ()) -> NDArray[np.int64]:
    """The class of each pixel; `_NOTHING` where its scores are NaN or infinite.

    Args:
        outputs: By name.
        options: Which of them.
        size: Height and width, where the labels tell; else the classes are taken to come first.

    Raises:
        DatasetError: The output holds no classes of pixels.
    """
    output = scored_output(outputs, options)
    if _is_map(output):
        return output.astype(np.int64).reshape(_map_shape(output))
    axis = _class_axis(output, size)
    if output.ndim != 4 or output.shape[axis] < 2:
        raise DatasetError(
            f"The model's output has shape {'×'.join(map(str, output.shape))} and type {output.dtype}: "
            "neither a score for each class and pixel nor the class (an integer) of each pixel.",
            "Choose the output that holds them, or score it with a metric of your own (task 'custom').",
        )
    valid = np.isfinite(np.max(output, axis=axis))
    masks: NDArray[np.int64] = np.where(valid, np.argmax(output, axis=axis), _NOTHING)
    return masks


def sample_scores(
    outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent
) -> NDArray[np.float64]:
    """Mean IoU of the classes that occur in the sample's mask or prediction; 1 where no pixel counts."""
    _, crossing, union = _areas(as_labels(outputs, options, labels.shape[1:]), labels, options)
    return _mean_iou(crossing, union)


def score(outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent) -> Scores:
    """Mean over the classes of intersection ÷ union of all pixels, each class's, and the share of right pixels."""
    masks = as_labels(outputs, options, labels.shape[1:])
    classes, crossing, union = _areas(masks, labels, options)
    counted = labels != options.ignore_label
    others = {"pixel accuracy": float((masks == labels)[counted].mean())}
    totals = crossing.sum(axis=0), union.sum(axis=0)
    others |= {f"IoU of {name}": float(a / b) for name, a, b in zip(classes, *totals, strict=True) if b}
    sums = draw_sums(np.concatenate([crossing, union], axis=1))
    draws = _mean_iou(*np.split(sums, 2, axis=1))
    broken = ((masks == _NOTHING) & counted).any(axis=(1, 2))
    samples = _mean_iou(crossing, union)
    return Scores("mIoU", float(_mean_iou(*totals)), samples, len(samples), draws, others, int(broken.sum()))


def _areas(
    masks: NDArray[Any], labels: NDArray[Any], options: AccuracyOptions
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The classes that occur, and each one's intersection and union in each sample, pixels, `(samples, classes)`."""
    counted = labels != options.ignore_label
    most = int(max(labels[counted].max(initial=0), masks.max(initial=0))) + 1
    hits, guessed, real = (np.zeros((len(labels), most)) for _ in range(3))
    for number, (mask, label, valid) in enumerate(zip(masks, labels, counted, strict=True)):
        for row, values in ((hits, mask[valid & (mask == label)]), (guessed, mask[valid]), (real, label[valid])):
            row[number] = np.bincount(values[values >= 0], minlength=most)
    union = guessed + real - hits
    classes = np.flatnonzero(union.any(axis=0))
    return classes, hits[:, classes], union[:, classes]


def _mean_iou(crossing: NDArray[np.float64], union: NDArray[np.float64]) -> NDArray[np.float64]:
    present = union > 0
    share = np.where(present, crossing / np.where(present, union, 1), 0.0)
    count = present.sum(axis=-1)
    mean: NDArray[np.float64] = np.where(count, share.sum(axis=-1) / np.maximum(count, 1), 1.0)
    return mean


def _is_map(output: NDArray[Any]) -> bool:
    """Whether it holds classes rather than scores."""
    one = output.ndim == 4 and 1 in (output.shape[1], output.shape[-1])
    return output.dtype.kind in "biu" and (output.ndim == 3 or one)


def _map_shape(output: NDArray[Any]) -> tuple[int, ...]:
    if output.ndim == 3:
        return output.shape
    return (len(output), *(output.shape[2:] if output.shape[1] == 1 else output.shape[1:3]))


def _class_axis(output: NDArray[Any], size: tuple[int, ...]) -> int:
    return 3 if output.ndim == 4 and output.shape[1:3] == size and output.shape[2:] != size else 1
