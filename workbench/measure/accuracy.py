"""Task accuracy, agreement between two models and output error: three things that are never mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.backends import predict
from workbench.dataset import Dataset, check_labels
from workbench.engine import Engine, Tensors
from workbench.errors import DatasetError
from workbench.jobs import Progress, silent
from workbench.measure.statistics import Estimate, paired_p_value, share_interval
from workbench.workspace import Workspace


@dataclass(frozen=True)
class Accuracy:
    """Share of samples whose highest score is at their label (top-1).

    Attributes:
        top1: The share and its 95 % Wilson interval.
        samples: Samples scored.
        dataset: Name of the evaluation data.
    """

    top1: Estimate
    samples: int
    dataset: str


@dataclass(frozen=True)
class Agreement:
    """How a candidate's predictions differ from the original's on the same samples.

    Attributes:
        share: Share of samples with the same prediction.
        changed: Numbers of the samples whose prediction changed.
        lost: Samples that only the original got right.
        gained: Samples that only the candidate got right.
        p_value: Exact McNemar test of "both are equally good"; None without labels.
    """

    share: float
    changed: tuple[int, ...]
    lost: int = 0
    gained: int = 0
    p_value: float | None = None


@dataclass(frozen=True)
class OutputError:
    """Numeric difference of the outputs from the original's, over all samples.

    Attributes:
        max_abs_error: Largest absolute difference.
        cosine_similarity: Of all values taken as one vector.
        sqnr_db: Signal-to-quantization-noise ratio, dB; None if the outputs are equal.
    """

    max_abs_error: float
    cosine_similarity: float
    sqnr_db: float | None


def measure_accuracy(
    engine: Engine,
    dataset: Dataset,
    *,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Scores a classifier on labelled samples.

    Args:
        engine: What to run; its first output holds one score per class in the last axis.
        dataset: Evaluation samples with labels.
        workspace: Where outputs are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        DatasetError: Samples or labels do not fit the model.
    """
    outputs = predict(engine, dataset, workspace=workspace, progress=progress)
    return score(first_output(engine, outputs), dataset)


def first_output(engine: Engine, outputs: Tensors) -> NDArray[Any]:
    """The output that classification looks at."""
    return outputs[engine.model.outputs[0].name]


def score(scores: NDArray[Any], dataset: Dataset) -> Accuracy:
    """Top-1 accuracy of class scores, shape `(samples, classes)`.

    Raises:
        DatasetError: The scores are not one row per sample, or the labels do not fit.
    """
    labels = check_labels(dataset, _classes(scores, dataset))
    hits = int((classes_of(scores) == labels).sum())
    return Accuracy(share_interval(hits, len(labels)), len(labels), dataset.name)


def classes_of(scores: NDArray[Any]) -> NDArray[np.int64]:
    """The predicted class of each row, shape `(samples,)`."""
    classes: NDArray[np.int64] = np.argmax(scores, axis=-1)
    return classes


def compare_predictions(original: NDArray[Any], candidate: NDArray[Any], dataset: Dataset) -> Agreement:
    """Compares class scores of two models on the same samples, shape `(samples, classes)` each."""
    before, after = classes_of(original), classes_of(candidate)
    changed = np.flatnonzero(before != after)
    share = 1 - len(changed) / len(before)
    numbers = tuple(int(index) for index in changed)
    if dataset.labels is None:
        return Agreement(share, numbers)
    lost = int(((before == dataset.labels) & (after != dataset.labels)).sum())
    gained = int(((before != dataset.labels) & (after == dataset.labels)).sum())
    return Agreement(share, numbers, lost, gained, paired_p_value(lost, gained))


def output_error(original: NDArray[Any], candidate: NDArray[Any]) -> OutputError:
    """Numeric difference of two outputs of the same shape."""
    signal, other = original.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    noise = float(np.square(signal - other).sum())
    norms = float(np.linalg.norm(signal) * np.linalg.norm(other))
    return OutputError(
        max_abs_error=float(np.abs(signal - other).max()),
        cosine_similarity=float(signal @ other) / norms if norms else 1.0,
        sqnr_db=10 * float(np.log10(np.square(signal).sum() / noise)) if noise else None,
    )


def _classes(scores: NDArray[Any], dataset: Dataset) -> int:
    if scores.ndim != 2 or len(scores) != len(dataset) or scores.shape[1] < 2:
        raise DatasetError(
            f"The model's first output has shape {'×'.join(map(str, scores.shape))} for {len(dataset)} samples: "
            "not one score per class and sample.",
            "Top-1 accuracy needs a classifier; leave the labels away to compare outputs only.",
        )
    return int(scores.shape[1])
