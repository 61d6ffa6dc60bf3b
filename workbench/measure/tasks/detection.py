"""Detection: mAP as COCO defines it. Labels are boxes `(samples, boxes, 5)`: x1, y1, x2, y2, class; −1 fills up.

The outputs are boxes `(samples, boxes, 4)`, again x1, y1, x2, y2, scores `(samples, boxes)` and classes
`(samples, boxes)`, found by their names (…box…, …score…, …class… or …label…), else taken in this order; or one output
`(samples, boxes, 6)` with all in this order. Rows of score 0 or class −1 fill up.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset, require_labels
from workbench.engine import Tensors
from workbench.errors import DatasetError, MissingDependencyError
from workbench.jobs import Progress, silent
from workbench.measure.tasks import RESAMPLES, AccuracyOptions, Scores, resamples, scored_output

_FORM = "boxes (samples, boxes, 5) of x1, y1, x2, y2 and class"
_MOST = 100  # detections of an image that COCO looks at
_AT_75 = 5  # place of 0.75 among COCO's thresholds 0.5, 0.55 … 0.95
_SCORE, _CLASS = 4, 5  # columns of a detection
_NAMES = (("box",), ("score",), ("class", "label"))


def check_labels(outputs: Tensors, dataset: Dataset, options: AccuracyOptions) -> NDArray[np.float64]:
    """Boxes with their corners in order and whole class numbers.

    Raises:
        DatasetError: The outputs are no detections, or the labels no boxes.
    """
    _read(outputs, options)
    labels = require_labels(dataset, _FORM)
    if labels.ndim != 3 or labels.shape[2] != 5:
        raise DatasetError(
            f"The labels of {dataset.name} have shape {'×'.join(map(str, labels.shape))}.",
            f"Give {_FORM}, filled up with rows of class −1; or choose the task that the labels are for.",
        )
    boxes = labels[labels[:, :, 4] != -1].astype(np.float64)
    if not len(boxes):
        raise DatasetError(f"{dataset.name} has no box with a class.", "mAP needs at least one: check the labels.")
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 4] >= 0) & (boxes[:, 4] % 1 == 0)
    good &= (boxes[:, 2:4] > boxes[:, :2]).all(axis=1)
    if not good.all():
        first = ", ".join(f"{value:g}" for value in boxes[~good][0])
        raise DatasetError(
            f"{int((~good).sum())} of {len(boxes)} boxes of {dataset.name} are none, the first: {first}.",
            "Each row is x1, y1, x2, y2 and class with x1 < x2 and y1 < y2, and a whole class number from 0 on.",
        )
    return labels.astype(np.float64)


def as_labels(outputs: Tensors, options: AccuracyOptions) -> NDArray[np.float64]:
    """The detections that reach `min_score`, in the form of labels."""
    found, _ = _read(outputs, options)
    labels = found[:, :, [0, 1, 2, 3, _CLASS]]
    labels[found[:, :, _SCORE] < options.min_score, 4] = -1
    return labels


def sample_scores(
    outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent
) -> NDArray[np.float64]:
    """F1 of the detections that reach `min_score`, matched at IoU 0.5; 1 where nothing is and nothing is found."""
    return _f1(_match(_read(outputs, options)[0], labels), len(labels), options)


def score(outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent) -> Scores:
    """mAP over IoU 0.5 to 0.95, and at 0.5 and 0.75."""
    found, broken = _read(outputs, options)
    progress(0.0, "matching boxes")
    matched = _match(found, labels)
    with contextlib.redirect_stdout(io.StringIO()):
        matched.accumulate()
    precision = matched.eval["precision"][..., 0, 0]  # thresholds × recalls × classes; −1 for classes without boxes

    def mean(part: NDArray[np.float64]) -> float:
        return float(part[part > -1].mean())

    others = {"mAP50": mean(precision[:1]), "mAP75": mean(precision[_AT_75 : _AT_75 + 1])}
    samples = _f1(matched, len(labels), options)
    draws = _draws(matched, len(labels), progress)
    return Scores("mAP", mean(precision), samples, len(labels), draws, others, int(broken.sum()))


def _read(outputs: Tensors, options: AccuracyOptions) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Detections `(samples, boxes, 6)`, those that are not finite with score 0, and which samples have such."""
    first = scored_output(outputs, options)
    if first.ndim == 3 and first.shape[2] == 6:
        found = first.astype(np.float64)
    else:
        boxes, scores, classes = _three(outputs)
        found = np.concatenate([boxes, scores[..., None], classes[..., None]], axis=2, dtype=np.float64)
    invalid: NDArray[np.bool_] = np.asarray(~np.isfinite(found).all(axis=2))
    found[invalid] = 0
    found[found[:, :, _CLASS] < 0, _SCORE] = 0
    return found, np.asarray(invalid.any(axis=1))


def _three(outputs: Tensors) -> list[NDArray[Any]]:
    named = [
        next((array for name, array in outputs.items() if any(word in name.lower() for word in words)), None)
        for words in _NAMES
    ]
    three = list(outputs.values())[:3] if any(array is None for array in named) else named
    shapes = [array.shape for array in three if array is not None]
    if len(shapes) < 3 or len(shapes[0]) != 3 or shapes[0] != (*shapes[1], 4) or shapes[1] != shapes[2]:
        listed = "; ".join(f"{name} {'×'.join(map(str, array.shape))}" for name, array in outputs.items())
        raise DatasetError(
            f"The model's outputs are no detections: {listed}.",
            "Boxes (samples, boxes, 4), scores and classes (samples, boxes) are needed, or one output of 6 columns.",
        )
    return [array for array in three if array is not None]


def _match(found: NDArray[np.float64], labels: NDArray[Any]) -> Any:
    """COCO's matches of detections and labelled boxes: its `COCOeval`, evaluated."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingDependencyError(
            "mAP is computed by pycocotools, which this environment lacks.",
            "Install it: pip install 'deployment-workbench[detection]'.",
        ) from None
    truth = [_boxes(rows[rows[:, 4] != -1]) for rows in labels]
    guesses = [_boxes(rows[rows[:, _SCORE] > 0][:, [0, 1, 2, 3, _CLASS, _SCORE]]) for rows in found]
    classes = sorted({box["category_id"] for boxes in (*truth, *guesses) for box in boxes})
    sets = []
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step there
        for boxes in (truth, guesses):
            coco = COCO()
            rows = [{**box, "image_id": image} for image, group in enumerate(boxes) for box in group]
            coco.dataset = {
                "images": [{"id": image} for image in range(len(labels))],
                "categories": [{"id": number} for number in classes],
                # From 1: it takes a match with number 0 for none.
                "annotations": [{**box, "id": number} for number, box in enumerate(rows, 1)],
            }
            coco.createIndex()
            sets.append(coco)
        evaluation = COCOeval(*sets, iouType="bbox")
        evaluation.params.maxDets = [_MOST]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    return evaluation


def _boxes(rows: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Rows of corners, class and perhaps score as COCO has them: corner, width and height."""
    boxes = []
    for x1, y1, x2, y2, number, *score in rows.tolist():
        width, height = max(0.0, x2 - x1), max(0.0, y2 - y1)
        box = {"bbox": [x1, y1, width, height], "area": width * height, "category_id": int(number), "iscrowd": 0}
        boxes.append({**box, "score": score[0]} if score else box)
    return boxes


def _f1(matched: Any, count: int, options: AccuracyOptions) -> NDArray[np.float64]:
    right, all_ = np.zeros(count), np.zeros(count)
    for found in filter(None, matched.evalImgs):
        shown = np.asarray(found["dtScores"]) >= options.min_score
        right[found["image_id"]] += (found["dtMatches"][0][shown] > 0).sum()
        all_[found["image_id"]] += shown.sum() + len(found["gtIds"])
    scores: NDArray[np.float64] = np.where(all_ > 0, 2 * right / np.maximum(all_, 1), 1.0)
    return scores


def _draws(matched: Any, count: int, progress: Progress) -> NDArray[np.float64]:
    """mAP of resampled images from the matches of each, as `COCOeval.accumulate` computes it, an image counting as
    often as it was drawn."""
    weights = np.stack([np.bincount(pick, minlength=count) for pick in resamples(count)])
    precision = []
    for number in range(len(matched.params.catIds)):
        images = [found for found in matched.evalImgs[number * count : (number + 1) * count] if found]
        boxes = np.zeros(count)
        for found in images:
            boxes[found["image_id"]] = len(found["gtIds"])
        if not boxes.any():
            continue
        scores = np.concatenate([found["dtScores"] for found in images])
        order = np.argsort(-scores, kind="mergesort")
        owner = np.concatenate([np.full(len(found["dtScores"]), found["image_id"]) for found in images])
        hits = np.concatenate([found["dtMatches"] > 0 for found in images], axis=1)[:, order]
        owner = owner[order].astype(np.intp)
        rows = np.full(RESAMPLES, np.nan)
        progress(number / len(matched.params.catIds), f"resampling class {matched.params.catIds[number]}")
        for draw, weight in enumerate(weights):
            if total := weight @ boxes:
                rows[draw] = _precision(hits, weight[owner], total, matched.params.recThrs)
        precision.append(rows)
    draws: NDArray[np.float64] = np.nanmean(precision, axis=0)
    return draws


def _precision(
    hits: NDArray[np.bool_], weights: NDArray[np.int64], total: float, recalls: NDArray[np.float64]
) -> float:
    """Average precision of one class over all thresholds, from its detections in the order of their scores."""
    right = np.cumsum(hits * weights, axis=1)
    share = right / np.maximum(np.cumsum(weights), 1)
    envelope = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
    reached = [np.searchsorted(row, recalls) for row in right / total]
    padded = np.concatenate([envelope, np.zeros((len(hits), 1))], axis=1)
    return float(np.mean([row[places] for row, places in zip(padded, reached, strict=True)]))
