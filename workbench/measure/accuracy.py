"""Task accuracy, and a candidate against the original on the same samples: what agrees, and what only chance moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from workbench import jobs
from workbench.backends import predict
from workbench.dataset import Dataset
from workbench.engine import Engine, Tensors
from workbench.errors import OptionsError
from workbench.jobs import Progress, part_of, silent
from workbench.measure.statistics import Estimate, paired_p_value, share_interval
from workbench.measure.tasks import AccuracyOptions, Metric, Scores, find_task, scored_output
from workbench.options import make_options
from workbench.workspace import Workspace

__all__ = [
    "Accuracy",
    "AccuracyChange",
    "AccuracyOptions",
    "Agreement",
    "Metric",
    "Scores",
    "accuracy_of",
    "accuracy_options",
    "can_score",
    "change_of",
    "compare_predictions",
    "measure_accuracy",
    "score",
    "scored_output",
]

_APART = ("detection",)  # in a process of its own: it takes minutes on many images, and its library prints
_SIGNIFICANCE = 0.05
_FEW_SAMPLES = 10  # a bootstrap interval from fewer is too narrow to be believed
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Accuracy:
    """How well a model does what it is for, on labelled samples.

    Attributes:
        metric: Name of the headline metric, e.g. `top-1`; a share, of which 1 is perfect.
        value: The headline metric with its 95 % interval: Wilson's where each sample is right or wrong, else bootstrap.
        samples: Samples scored.
        dataset: Name of the evaluation data.
        others: Further metrics by name; errors in the unit of the targets.
        invalid: Samples whose outputs are NaN or infinite; they count as wrong.
    """

    metric: str
    value: Estimate
    samples: int
    dataset: str
    others: Mapping[str, float] = field(default_factory=dict)
    invalid: int = 0

    @property
    def caveats(self) -> tuple[str, ...]:
        """What speaks against believing the number, in words."""
        notes = []
        if self.invalid:
            notes.append(f"{self.invalid} of {self.samples} samples give NaN or infinite outputs; they count as wrong")
        if self.samples == 1:
            notes.append("one sample says nothing about others")
        elif self.samples < _FEW_SAMPLES:
            notes.append(f"{self.samples} samples are too few for an interval to be relied on")
        return tuple(notes)


@dataclass(frozen=True)
class Agreement:
    """How a candidate's predictions differ from the original's on the same samples; labels play no part.

    Attributes:
        share: Share of samples with the same prediction: the same class, or, in the other tasks, a score of at least 1
            minus the tolerance when the original's prediction is taken for the label.
        changed: Numbers of the samples whose prediction changed.
    """

    share: float
    changed: tuple[int, ...]


@dataclass(frozen=True)
class AccuracyChange:
    """A candidate's accuracy against the original's on the same samples.

    Attributes:
        difference: Candidate minus original with its 95 % interval, percentage points; negative where accuracy is lost.
        p_value: Of "both are equally good".
        test: McNemar's exact test where each sample is right or wrong, else the paired bootstrap.
        lost: Samples that only the original got right, or whose score fell by more than the tolerance; None where the
            metric has no score of a single sample.
        gained: Samples that only the candidate got right, or whose score rose by more than the tolerance; or None.
    """

    difference: Estimate
    p_value: float
    test: Literal["McNemar", "bootstrap"]
    lost: int | None
    gained: int | None

    @property
    def significant(self) -> bool:
        """Whether chance hardly explains the difference (p ≤ 0.05)."""
        return self.p_value <= _SIGNIFICANCE


def accuracy_options(options: Mapping[str, Any] | AccuracyOptions | None, metric: Metric | None) -> AccuracyOptions:
    """Checked options; a function given as `metric` makes the task a custom one.

    Raises:
        OptionsError: An option does not exist, has a value it cannot have, or belongs to another task.
    """
    checked = make_options(AccuracyOptions, options, "accuracy")
    if metric is not None and checked.task == "classification":
        checked = dataclasses.replace(checked, task="custom")
    named = bool(checked.metric) or metric is not None
    if named != (checked.task == "custom"):
        what = f"task '{checked.task}' together with a metric" if named else "task 'custom' without a metric"
        raise OptionsError(
            f"accuracy has {what}.", "Give a metric and task 'custom', or neither: every other task has its own."
        )
    return checked


def measure_accuracy(
    engine: Engine,
    dataset: Dataset,
    options: Mapping[str, Any] | AccuracyOptions | None = None,
    *,
    metric: Metric | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Scores a model on labelled samples.

    Args:
        engine: What to run.
        dataset: Evaluation samples with labels in the form of the task, see `Dataset`.
        options: Fields of `AccuracyOptions`.
        metric: A function of your own in place of a task's: it takes the outputs by name and the labels (or None), and
            returns a share, 1 being perfect: one per sample, or one for all.
        workspace: Where outputs are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        DatasetError: Samples or labels do not fit the model or the task.
        OptionsError: An option does not exist or has a value it cannot have.
        MissingDependencyError: The task needs a package that is not installed.
    """
    checked = accuracy_options(options, metric)
    outputs = predict(engine, dataset, workspace=workspace, progress=part_of(progress, 0.0, 0.9))
    scores = score(outputs, dataset, checked, metric=metric, progress=part_of(progress, 0.9, 1.0))
    return accuracy_of(scores, dataset)


def can_score(dataset: Dataset, options: AccuracyOptions) -> bool:
    """Whether accuracy can be measured: there are labels, or a metric of the user's own that may do without."""
    return dataset.labels is not None or options.task == "custom"


def score(
    outputs: Tensors,
    dataset: Dataset,
    options: AccuracyOptions | None = None,
    *,
    metric: Metric | None = None,
    progress: Progress = silent,
) -> Scores:
    """Holds a model's outputs, as `predict` gives them, against the labels.

    Raises:
        DatasetError: Outputs or labels are not what the task needs.
    """
    options = options or AccuracyOptions()
    if options.task == "custom":
        from workbench.measure.tasks import custom

        return custom.score(outputs, dataset.labels, options, metric, progress)
    task = find_task(options.task)
    labels = task.check_labels(outputs, dataset, options)
    if options.task in _APART:
        return jobs.run(task.score, outputs, labels, options, progress=progress)
    return task.score(outputs, labels, options)


def accuracy_of(scores: Scores, dataset: Dataset) -> Accuracy:
    """The result that is shown and kept."""
    if scores.draws is None:
        value = share_interval(round(scores.samples.sum()), scores.count)
    elif scores.count == 1:
        value = Estimate(scores.value, min(0.0, scores.value), 1.0)  # one sample leaves everything open
    else:
        low, high = np.quantile(scores.draws, [0.025, 0.975])
        value = Estimate(scores.value, min(scores.value, float(low)), max(scores.value, float(high)))
    return Accuracy(scores.metric, value, scores.count, dataset.name, scores.others, scores.invalid)


def change_of(original: Scores, candidate: Scores, tolerance: float = 0.0) -> AccuracyChange:
    """Tests whether two models that were scored on the same samples are equally good."""
    moved = candidate.samples - original.samples
    if original.draws is None or candidate.draws is None:
        lost, gained = int((moved < 0).sum()), int((moved > 0).sum())
        interval = _paired_interval(lost, gained, original.count)
        return AccuracyChange(interval, paired_p_value(lost, gained), "McNemar", lost, gained)
    value = 100 * (candidate.value - original.value)
    draws = 100 * (candidate.draws - original.draws)
    low, high = (float(bound) for bound in np.quantile(draws, [0.025, 0.975]))
    if original.count == 1:
        low, high = -100.0, 100.0
    # How often a resample falls on the other side of "no difference"; Efron & Tibshirani 1993, ch. 15.
    beyond = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    p_value = 1.0 if original.count == 1 else min(1.0, 2 * (beyond + 1) / (len(draws) + 1))
    counts = (int((moved < -tolerance).sum()), int((moved > tolerance).sum())) if moved.size else (None, None)
    return AccuracyChange(Estimate(value, min(value, low), max(value, high)), p_value, "bootstrap", *counts)


def compare_predictions(
    original: Tensors,
    candidate: Tensors,
    options: AccuracyOptions | None = None,
    *,
    progress: Progress = silent,
) -> Agreement:
    """Finds the samples on which a candidate predicts something else than the original; needs no labels.

    Raises:
        DatasetError: The outputs are not what the task needs.
    """
    options = options or AccuracyOptions()
    task = find_task(options.task)
    labels = task.as_labels(original, options)
    if options.task in _APART:
        scores = jobs.run(task.sample_scores, candidate, labels, options, progress=progress)
    else:
        scores = task.sample_scores(candidate, labels, options)
    tolerance = 0.0 if options.task == "classification" else options.tolerance
    changed = np.flatnonzero(scores < 1 - tolerance)
    return Agreement(1 - len(changed) / len(scores), tuple(int(number) for number in changed))


def _paired_interval(lost: int, gained: int, count: int) -> Estimate:
    """Difference of two shares of the same samples, points: Wald's interval with half a sample added to each cell.

    Agresti & Min, Simple improved confidence intervals for comparing matched proportions, Stat. Med. 24, 2005.
    """
    total, difference = count + 2, gained - lost
    centre = difference / total
    half = _Z * np.sqrt(max(0.0, gained + lost + 1 - difference**2 / total)) / total
    low, high = max(-1.0, float(centre - half)), min(1.0, float(centre + half))
    return Estimate(100 * difference / count, 100 * low, 100 * high)
