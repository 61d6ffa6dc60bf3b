"""Custom: a function of the user's own, which takes the outputs by name and the labels, and returns a share.

It returns one score per sample, `(samples,)`, or one number for all; 1 is perfect. One per sample is better: then it is
called once, while a number for all is computed anew for each resample of the bootstrap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench import jobs
from workbench.engine import Tensors
from workbench.errors import DatasetError, OptionsError
from workbench.functions import find_function, first_sentence
from workbench.jobs import Progress, silent
from workbench.measure.tasks import RESAMPLES, AccuracyOptions, Metric, Scores, draw_sums, regression, resamples

# What the outputs mean is not known: a prediction has changed if the numbers have.
as_labels = regression.as_labels
sample_scores = regression.sample_scores


def score(
    outputs: Tensors,
    labels: NDArray[Any] | None,
    options: AccuracyOptions,
    metric: Metric | None = None,
    progress: Progress = silent,
) -> Scores:
    """Calls the metric: one that is given here, one that is named in a fresh subprocess.

    Raises:
        OptionsError: There is no such function, or it fails.
        DatasetError: What it returns is no share.
    """
    if metric is None:
        return jobs.run(_score_named, outputs, labels, options, progress=progress)
    name = getattr(metric, "__name__", "metric").strip("<>")
    given = _call(metric, outputs, labels, name)
    count = len(next(iter(outputs.values())))
    if given.ndim:
        return _score_each(given, count, name)
    if not np.isfinite(given):
        raise DatasetError(
            f"The metric {name} gives {given}.", "Make it return a number for outputs that are NaN or infinite, too."
        )
    draws = np.empty(RESAMPLES)
    for number, pick in enumerate(resamples(count)):
        progress(number / RESAMPLES, f"{name}: resample {number + 1}/{RESAMPLES}")
        part = {key: values[pick] for key, values in outputs.items()}
        draws[number] = _call(metric, part, None if labels is None else labels[pick], name)
    draws = np.where(np.isfinite(draws), draws, given)  # e.g. a class that this resample lacks
    return Scores(name, _share(float(given), name), np.empty(0), count, draws)


def _score_named(outputs: Tensors, labels: NDArray[Any] | None, options: AccuracyOptions, progress: Progress) -> Scores:
    return score(outputs, labels, options, find_function(options.metric, "metric"), progress)


def _score_each(given: NDArray[np.float64], count: int, name: str) -> Scores:
    if given.shape != (count,):
        raise DatasetError(
            f"The metric {name} returns shape {'×'.join(map(str, given.shape))} for {count} samples.",
            "Return one number per sample, or one for all.",
        )
    invalid = ~np.isfinite(given)
    samples = np.where(invalid, 0.0, given)
    value = _share(float(samples.mean()), name)
    draws = None if np.isin(samples, (0, 1)).all() else draw_sums(samples[:, None])[:, 0] / count
    return Scores(name, value, samples, count, draws, invalid=int(invalid.sum()))


def _share(value: float, name: str) -> float:
    if value > 1 + 1e-9:
        raise DatasetError(
            f"The metric {name} gives {value:g}, but should give a share, of which 1 is perfect.",
            "Divide a percentage by 100; turn an error into a share, such as 1 / (1 + error).",
        )
    return value


def _call(metric: Metric, outputs: Tensors, labels: NDArray[Any] | None, name: str) -> NDArray[np.float64]:
    try:
        return np.asarray(metric(outputs, labels), np.float64)
    except Exception as error:
        raise OptionsError(
            f"The metric {name} fails: {type(error).__name__}: {first_sentence(error)}.",
            "It is called with the outputs by name and the labels, samples along the first axis of each.",
        ) from error
