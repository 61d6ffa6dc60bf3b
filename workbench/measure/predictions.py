"""Samples on which a candidate predicts something else than the original: the data of the predictions view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.jobs import Progress, silent
from workbench.measure.accuracy import compare_predictions, score
from workbench.measure.tasks import AccuracyOptions, Scores, classification, scored_output
from workbench.options import make_options

Verdict = Literal["lost", "gained", "changed"]

_ORDER: dict[Verdict, int] = {"lost": 0, "gained": 1, "changed": 2}
_SCORE_NAMES = {"regression": "score", "segmentation": "IoU", "detection": "F1"}


@dataclass(frozen=True)
class Prediction:
    """What a model says of one sample.

    Attributes:
        text: The class, the value, or in the other tasks how good it is, e.g. `IoU 0.82`.
        score: Probability of the class, or the sample's score; None where there is neither.
    """

    text: str
    score: float | None


@dataclass(frozen=True)
class ChangedSample:
    """One sample on which two models differ.

    Attributes:
        number: Its number in the dataset.
        label: Its label in words; empty without labels or where it is no single number.
        before: What the original says.
        after: What the candidate says.
        verdict: `lost` if only the original is right (or the sample's score fell by more than the tolerance), `gained`
            the other way round, else `changed`.
    """

    number: int
    label: str
    before: Prediction
    after: Prediction
    verdict: Verdict


def changed_samples(
    original: Tensors,
    candidate: Tensors,
    dataset: Dataset,
    options: Mapping[str, Any] | AccuracyOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[ChangedSample, ...]:
    """Lists the samples whose prediction changed, those that were lost first.

    Args:
        original: Outputs, as `predict` gives them.
        candidate: Outputs on the same samples.
        dataset: The samples, with or without labels.
        options: Fields of `AccuracyOptions`: what the models are for. In a custom task nothing is lost or gained.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        DatasetError: Outputs or labels are not what the task needs.
    """
    options = make_options(AccuracyOptions, options, "accuracy")
    changed = set(compare_predictions(original, candidate, options, progress=progress).changed)
    scores = None
    if dataset.labels is not None and options.task != "custom":
        before, after = (score(outputs, dataset, options, progress=progress) for outputs in (original, candidate))
        tolerance = 0.0 if options.task == "classification" else options.tolerance
        changed |= {int(number) for number in np.flatnonzero(np.abs(after.samples - before.samples) > tolerance)}
        scores = before, after
    numbers = sorted(changed)
    verdicts = _verdicts(scores, options, len(dataset))
    texts = [
        _predictions(outputs, numbers, options, scores[side] if scores else None)
        for side, outputs in enumerate((original, candidate))
    ]
    samples = [
        ChangedSample(number, _label(dataset, number), was, now, verdicts[number])
        for number, was, now in zip(numbers, *texts, strict=True)
    ]
    return tuple(sorted(samples, key=lambda sample: _ORDER[sample.verdict]))


def _verdicts(scores: tuple[Scores, Scores] | None, options: AccuracyOptions, count: int) -> list[Verdict]:
    if scores is None:
        return ["changed"] * count
    moved = scores[1].samples - scores[0].samples
    tolerance = 0.0 if options.task == "classification" else options.tolerance
    return ["lost" if move < -tolerance else "gained" if move > tolerance else "changed" for move in moved.tolist()]


def _predictions(
    outputs: Tensors, numbers: list[int], options: AccuracyOptions, scores: Scores | None
) -> list[Prediction]:
    output = scored_output(outputs, options)
    if options.task == "classification" and output.ndim == 2:
        classes = classification.as_labels(outputs, options)
        shares = probabilities(output[numbers])
        return [
            Prediction(str(classes[number]), float(share[classes[number]]))
            if classes[number] != classification.NOTHING
            else Prediction("NaN", None)
            for number, share in zip(numbers, shares, strict=True)
        ]
    points = [None if scores is None else float(scores.samples[number]) for number in numbers]
    if output[0].size == 1:
        values = output.reshape(-1)[numbers].tolist()
        return [Prediction(f"{value:.4g}", point) for value, point in zip(values, points, strict=True)]
    name = _SCORE_NAMES.get(options.task, "score")
    return [Prediction("" if point is None else f"{name} {point:.2f}", point) for point in points]


def probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of each row; rows that are probabilities already stay as they are."""
    values = scores.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=-1), 1, atol=1e-2):
        return values
    with np.errstate(invalid="ignore"):  # rows with NaN or infinity stay NaN
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _label(dataset: Dataset, number: int) -> str:
    if dataset.labels is None or dataset.labels[number].size != 1:
        return ""
    value = dataset.labels[number].item()
    return str(value) if isinstance(value, int) else f"{value:.4g}"
