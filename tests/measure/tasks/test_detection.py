"""Detection: mAP against pycocotools used by hand, the forms of outputs, and boxes that are none."""

from __future__ import annotations

import contextlib
import io
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import Cancelled, DatasetError, MissingDependencyError
from workbench.measure.accuracy import AccuracyOptions, accuracy_of, change_of, compare_predictions, score
from workbench.measure.tasks import detection

DETECTION = AccuracyOptions(task="detection")


def scene(images: int = 24, seed: int = 0, shift: float = 3.0) -> tuple[Dataset, dict[str, np.ndarray]]:
    """Up to three boxes of two classes in each image, found with some error, some missed, some invented."""
    generator = np.random.default_rng(seed)
    labels = np.full((images, 3, 5), -1.0, np.float32)
    boxes = np.zeros((images, 4, 4), np.float32)
    scores, classes = np.zeros((images, 4), np.float32), np.zeros((images, 4), np.int64)
    for image in range(images):
        for row in range(generator.integers(1, 4)):
            corner = generator.uniform(0, 60, 2)
            labels[image, row] = [*corner, *(corner + generator.uniform(15, 40, 2)), generator.integers(0, 2)]
            if generator.random() < 0.85:
                boxes[image, row] = labels[image, row, :4] + generator.uniform(-shift, shift, 4)
                scores[image, row], classes[image, row] = generator.uniform(0.5, 1), labels[image, row, 4]
        if generator.random() < 0.4:
            boxes[image, 3], scores[image, 3] = [5, 5, 30, 30], generator.uniform(0.3, 0.9)
    return Dataset({"x": np.zeros((images, 1))}, labels), {"boxes": boxes, "scores": scores, "classes": classes}


def by_hand(dataset: Dataset, outputs: Tensors) -> list[float]:
    """mAP, mAP50 and mAP75 as COCO's own example computes them."""
    assert dataset.labels is not None
    truth, found = [], []
    for image, rows in enumerate(dataset.labels.tolist()):
        for x1, y1, x2, y2, number in rows:
            if number >= 0:
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                truth.append({**box, "id": len(truth) + 1, "image_id": image, "category_id": int(number)})
    for image in range(len(dataset)):
        for (x1, y1, x2, y2), value, number in zip(*(outputs[name][image].tolist() for name in outputs), strict=True):
            if value > 0:
                found.append([image, x1, y1, x2 - x1, y2 - y1, value, number])
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(dataset))],
        "categories": [{"id": 0}, {"id": 1}],
        "annotations": truth,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(np.array(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:3]]


def test_the_metrics_are_cocos(capfd: pytest.CaptureFixture[str]) -> None:
    dataset, outputs = scene()
    accuracy = accuracy_of(score(outputs, dataset, DETECTION), dataset)
    whole, at_50, at_75 = by_hand(dataset, outputs)

    assert (accuracy.metric, accuracy.samples) == ("mAP", 24)
    assert accuracy.value.value == pytest.approx(whole)
    assert accuracy.others == {"mAP50": pytest.approx(at_50), "mAP75": pytest.approx(at_75)}
    assert 0.2 < accuracy.value.low < whole < accuracy.value.high < 0.9
    assert capfd.readouterr().out == ""


def test_a_resample_is_what_coco_computes_of_the_drawn_images(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, outputs = scene()
    picks = [np.arange(24), np.random.default_rng(1).integers(0, 24, 24)]
    monkeypatch.setattr(detection, "resamples", lambda count: picks)
    monkeypatch.setattr(detection, "RESAMPLES", len(picks))
    assert dataset.labels is not None
    draws = detection.score(outputs, dataset.labels, DETECTION).draws

    drawn = Dataset({"x": np.zeros((24, 1))}, dataset.labels[picks[1]])
    expected = [by_hand(dataset, outputs)[0], by_hand(drawn, {n: a[picks[1]] for n, a in outputs.items()})[0]]
    assert draws == pytest.approx(expected)


def test_outputs_are_found_by_name_by_place_and_in_one() -> None:
    dataset, outputs = scene(8)
    boxes, scores, classes = outputs.values()
    assert dataset.labels is not None
    expected = detection.score(outputs, dataset.labels, DETECTION).value

    for other in (
        {"scores:0": scores, "labels": classes, "pred_boxes": boxes},
        {"a": boxes, "b": scores, "c": classes},
        {"y": np.concatenate([boxes, scores[..., None], classes[..., None]], axis=2)},
    ):
        assert detection.score(other, dataset.labels, DETECTION).value == expected


def test_boxes_that_are_not_finite_are_dropped_and_their_samples_counted() -> None:
    dataset, outputs = scene(8)
    boxes = outputs["boxes"].copy()
    boxes[3], boxes[5, 0, 2] = np.nan, np.inf
    assert dataset.labels is not None
    found = detection.score({**outputs, "boxes": boxes}, dataset.labels, DETECTION)

    assert found.invalid == 2
    assert found.value < detection.score(outputs, dataset.labels, DETECTION).value
    broken = {**outputs, "boxes": np.full_like(boxes, np.nan)}
    assert detection.score(broken, dataset.labels, DETECTION).value == 0


def test_a_worse_candidate_is_told_from_chance_and_its_samples_named() -> None:
    dataset, outputs = scene(30)
    worse = {**outputs, "boxes": outputs["boxes"] + np.array([9, 0, 9, 0], np.float32)}
    before, after = (score(each, dataset, DETECTION) for each in (outputs, worse))
    change = change_of(before, after, 0.05)

    assert (change.test, change.significant) == ("bootstrap", True)
    assert change.difference.high < -10
    assert change.lost
    agreement = compare_predictions(outputs, worse, DETECTION)
    assert 0 < len(agreement.changed) < 30
    assert compare_predictions(outputs, outputs, DETECTION).share == 1


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "no labels"),
        (np.zeros((8, 4)), "shape 8×4"),
        (np.full((8, 1, 5), -1.0), "has no box with a class"),
        (np.tile([0, 0, 9, 9, 0.5], (8, 1, 1)), "8 of 8 boxes of samples are none, the first: 0, 0, 9, 9, 0.5"),
        (np.tile([5, 0, 2, 9, 0], (8, 1, 1)), "x1 < x2"),
        (np.tile([0, 0, np.nan, 9, 0], (8, 1, 1)), "the first: 0, 0, nan"),
    ],
)
def test_labels_that_are_no_boxes_are_refused(labels: np.ndarray | None, words: str) -> None:
    _, outputs = scene(8)
    with pytest.raises(DatasetError, match=words):
        score(outputs, Dataset({"x": np.zeros((8, 1))}, labels), DETECTION)


@pytest.mark.parametrize(
    "outputs",
    [
        {"scores": np.zeros((8, 3))},
        {"boxes": np.zeros((8, 2, 4)), "scores": np.zeros((8, 3)), "classes": np.zeros((8, 3))},
    ],
)
def test_outputs_that_are_no_detections_are_refused(outputs: Tensors) -> None:
    with pytest.raises(DatasetError, match=r"are no detections: .*scores 8×3.*Boxes \(samples, boxes, 4\)"):
        score(outputs, scene(8)[0], DETECTION)


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, outputs = scene(8)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    assert dataset.labels is not None
    with pytest.raises(MissingDependencyError, match=r"pip install 'deployment-workbench\[detection\]'"):
        detection.score(outputs, dataset.labels, DETECTION)


def test_it_can_be_cancelled() -> None:
    def cancel(fraction: float, message: str) -> None:
        raise Cancelled

    dataset, outputs = scene(8)
    with pytest.raises(Cancelled):
        score(outputs, dataset, DETECTION, progress=cancel)
