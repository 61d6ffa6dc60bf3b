"""Metrics of the user's own: given as a function or named, and what of them cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.dataset import Dataset
from workbench.errors import DatasetError, OptionsError
from workbench.measure.accuracy import AccuracyOptions, accuracy_of, accuracy_options, change_of, score
from workbench.measure.statistics import share_interval

LABELS = np.random.default_rng(0).integers(0, 3, 60)
OUTPUTS = {"scores": np.eye(3)[np.where(np.arange(60) % 4, LABELS, 0)]}
DATASET = Dataset({"x": np.zeros((60, 1))}, LABELS)
CUSTOM = AccuracyOptions(task="custom", metric="anything:at_all")


def balanced(outputs: Any, labels: Any) -> float:
    """Mean over the classes of the share that is found: no mean over samples."""
    hits = outputs["scores"].argmax(1) == labels
    return float(np.mean([hits[labels == number].mean() for number in np.unique(labels)]))


def closeness(outputs: Any, labels: Any) -> Any:
    return 0.5 + outputs["scores"][np.arange(len(labels)), labels] / 2


def test_one_number_for_all_gets_its_interval_from_resamples() -> None:
    accuracy = accuracy_of(score(OUTPUTS, DATASET, CUSTOM, metric=balanced), DATASET)

    assert accuracy.metric == "balanced"
    assert accuracy.value.value == balanced(OUTPUTS, LABELS)
    assert accuracy.value.low < accuracy.value.value < accuracy.value.high
    change = change_of(*(score(OUTPUTS, DATASET, CUSTOM, metric=balanced) for _ in range(2)))
    assert (change.test, change.p_value, change.lost, change.gained) == ("bootstrap", 1, None, None)


def test_one_number_per_sample_is_called_once() -> None:
    calls: list[int] = []

    def counted(outputs: Any, labels: Any) -> Any:
        calls.append(1)
        return closeness(outputs, labels)

    scores = score(OUTPUTS, DATASET, CUSTOM, metric=counted)
    assert len(calls) == 1
    assert scores.value == closeness(OUTPUTS, LABELS).mean()
    assert scores.draws is not None
    assert scores.draws.mean() == pytest.approx(scores.value, abs=0.01)


def test_right_or_wrong_is_treated_like_top_1() -> None:
    def right(outputs: Any, labels: Any) -> Any:
        return outputs["scores"].argmax(1) == labels

    scores = score(OUTPUTS, DATASET, CUSTOM, metric=right)
    hits = int((OUTPUTS["scores"].argmax(1) == LABELS).sum())
    assert accuracy_of(scores, DATASET).value == share_interval(hits, 60)
    assert change_of(scores, scores).test == "McNemar"


def test_samples_whose_score_is_nan_are_wrong_and_counted() -> None:
    def broken(outputs: Any, labels: Any) -> Any:
        return np.where(np.arange(60) < 3, np.nan, 1.0)

    accuracy = accuracy_of(score(OUTPUTS, DATASET, CUSTOM, metric=broken), DATASET)
    assert accuracy.value.value == pytest.approx(57 / 60)
    assert accuracy.invalid == 3


def test_a_named_metric_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text(
        "import os, pathlib\n"
        "def half(outputs, labels):\n"
        f"    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\n"
        "    return [0.5] * len(labels)\n"
    )
    scores = score(OUTPUTS, DATASET, AccuracyOptions(task="custom", metric=f"{tmp_path}/metrics.py:half"))

    assert (scores.metric, scores.value) == ("half", 0.5)
    [process] = [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()]
    assert not Path(f"/proc/{process}").exists()


@pytest.mark.parametrize(
    ("metric", "error", "words"),
    [
        (lambda outputs, labels: 87.5, DatasetError, "lambda gives 87.5, but should give a share.*by 100"),
        (lambda outputs, labels: float("nan"), DatasetError, "lambda gives nan"),
        (lambda outputs, labels: np.zeros(7), DatasetError, "shape 7 for 60 samples"),
        (lambda outputs, labels: outputs["logits"], OptionsError, "metric lambda fails: KeyError: 'logits'"),
        (lambda outputs, labels: "good", OptionsError, "metric lambda fails: ValueError"),
    ],
)
def test_what_is_no_metric_is_refused(metric: Callable[..., Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        score(OUTPUTS, DATASET, CUSTOM, metric=metric)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("f1", "`metric` is 'f1', which names no function"),
        ("none/metrics.py:f1", "`metric` names none/metrics.py, which does not exist"),
        ("math:f1", "`metric` names math, which has no function 'f1'"),
    ],
)
def test_a_metric_that_is_not_there_is_named(metric: str, words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        score(OUTPUTS, DATASET, AccuracyOptions(task="custom", metric=metric))


def test_task_and_metric_must_go_together() -> None:
    assert accuracy_options(None, closeness).task == "custom"
    with pytest.raises(OptionsError, match="task 'custom' without a metric"):
        accuracy_options({"task": "custom"}, None)
    with pytest.raises(OptionsError, match="task 'regression' together with a metric"):
        accuracy_options({"task": "regression", "metric": "a:b"}, None)
    with pytest.raises(OptionsError, match="Choose one of classification, regression, segmentation"):
        accuracy_options({"task": "clasification"}, None)
