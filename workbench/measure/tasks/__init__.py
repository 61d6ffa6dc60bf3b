"""Tasks: one file each scores a model's outputs against labels; what they share stands here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import OptionsError
from workbench.jobs import Progress, silent
from workbench.options import option, suggest

Metric: TypeAlias = Callable[[Tensors, NDArray[Any] | None], Any]

RESAMPLES = 400


@dataclass(frozen=True)
class AccuracyOptions:
    """What a model is for, and how its outputs are scored."""

    task: Annotated[
        Literal["classification", "regression", "segmentation", "detection", "custom"],
        option("What the model does; custom: scored by `metric`."),
    ] = "classification"
    output: Annotated[str, option("Output that is scored; the first if empty.", advanced=True)] = ""
    top_k: Annotated[
        int, option("Classification: a label among this many highest scores counts too.", minimum=1, maximum=1000)
    ] = 5
    ignore_label: Annotated[
        int, option("Segmentation: label of pixels that do not count.", minimum=-1, maximum=65535)
    ] = -1
    min_score: Annotated[
        float, option("Detection: smallest score of a box that is shown and compared.", minimum=0, maximum=1)
    ] = 0.5
    tolerance: Annotated[
        float,
        option("A sample has changed if its score moves by more; classes always count.", minimum=0, maximum=1),
    ] = 0.05
    metric: Annotated[
        str,
        option(
            "Custom: function of outputs and labels that gives a share: package.module:function or file.py:function.",
            example="metrics.py:f1",
        ),
    ] = ""


@dataclass(frozen=True, eq=False)
class Scores:
    """Outputs held against labels.

    Attributes:
        metric: Name of the headline metric, a share: 1 is perfect.
        value: The headline metric over all samples.
        samples: Score of each sample, shape `(samples,)`; empty where the metric has none.
        count: Samples scored.
        draws: The headline metric of resampled samples, the same resamples for every model; None where each sample is
            simply right (1) or wrong (0).
        others: Further metrics by name.
        invalid: Samples whose outputs are NaN or infinite; they count as wrong.
    """

    metric: str
    value: float
    samples: NDArray[np.float64]
    count: int
    draws: NDArray[np.float64] | None = None
    others: Mapping[str, float] = field(default_factory=dict)
    invalid: int = 0


class Task(Protocol):
    """What the file of a task defines. `labels` have the task's form, which its first lines describe."""

    def check_labels(self, outputs: Tensors, dataset: Dataset, options: AccuracyOptions) -> NDArray[Any]:
        """Returns the labels after checking that they and the outputs are what the task needs.

        Raises:
            DatasetError: They are not.
        """

    def as_labels(self, outputs: Tensors, options: AccuracyOptions) -> NDArray[Any]:
        """A model's predictions in the form of labels."""

    def sample_scores(
        self, outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent
    ) -> NDArray[np.float64]:
        """A score for each sample, 1 where it is all right, shape `(samples,)`."""

    def score(
        self, outputs: Tensors, labels: NDArray[Any], options: AccuracyOptions, progress: Progress = silent
    ) -> Scores:
        """Holds outputs against labels."""


def find_task(name: str) -> Task:
    """The module of a task."""
    return cast(Task, importlib.import_module(f"{__name__}.{name}"))


def scored_output(outputs: Tensors, options: AccuracyOptions) -> NDArray[Any]:
    """The output that is scored.

    Raises:
        OptionsError: There is none of that name.
    """
    if not options.output:
        return next(iter(outputs.values()))
    if options.output not in outputs:
        raise OptionsError(f"The model has no output '{options.output}'.", suggest(options.output, list(outputs)))
    return outputs[options.output]


def resamples(count: int) -> Iterator[NDArray[np.intp]]:
    """Numbers of samples drawn with replacement, the same ones every time: so two models are compared in pairs.

    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 6 and 16.
    """
    generator = np.random.default_rng(0)
    for _ in range(RESAMPLES):
        yield generator.integers(0, count, count)


def draw_sums(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over resampled samples.

    Args:
        parts: What each sample adds, shape `(samples, parts)`.

    Returns:
        One row per resample.
    """
    weights = (np.bincount(pick, minlength=len(parts)) for pick in resamples(len(parts)))
    return np.stack([weight @ parts for weight in weights])
