"""What a student learns from: samples in two parts, the teacher's answers to them, and the user's augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.dataset import Dataset
from workbench.errors import DatasetError, OptionsError
from workbench.functions import find_function, first_sentence
from workbench.jobs import Progress
from workbench.training._losses import make_task
from workbench.training._teacher import Teacher
from workbench.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch

_ASKED = 256  # samples between two reports


class Samples:
    """Training samples as tensors.

    Args:
        training: All samples.
        teacher: Answers all of them once; where they are augmented or features are matched, each batch again.
        options: How much is held back, and how it is augmented.
        batch: Samples per step.
        every_batch: Whether the teacher is to answer each batch, features included.
        progress: Told how far the teacher is.

    Attributes:
        learned: Numbers of the samples that are learned from.
        held: Numbers of those that score; all where none are held back.
        task: What the outputs are.
        teacher_score: The teacher's on `held`.

    Raises:
        DatasetError: They are fewer than two batches, or the labels do not fit.
        OptionsError: There is no such augmentation.
    """

    def __init__(
        self,
        training: Dataset,
        teacher: Teacher,
        options: TrainingOptions,
        batch: int,
        every_batch: bool,
        progress: Progress,
    ) -> None:
        import torch

        count = len(training)
        held = round(count * options.validation_share)
        order = np.random.RandomState(options.seed % 2**32).permutation(count)
        self.held, self.learned = order[:held] if held else order, order[held:]
        if len(self.learned) < 2 * batch:
            raise DatasetError(
                f"{training.name} leaves {len(self.learned)} samples to learn from "
                f"({held} of {count} are held back), fewer than two batches of {batch}.",
                "Give more samples, a smaller batch or a smaller validation share.",
            )
        self._augmentation = find_function(options.augment, "augment") if options.augment else None
        self._title, self._teacher = options.augment, teacher
        self._again = every_batch or self._augmentation is not None
        answers = _answers(training, teacher, progress)
        self.task = make_task(
            answers, training, options.loss, temperature=options.temperature, teacher_weight=options.teacher_weight
        )
        self._inputs = {name: torch.from_numpy(np.array(array)) for name, array in training.inputs.items()}
        self._labels = None if training.labels is None else torch.from_numpy(np.array(training.labels))
        self._answers = {name: torch.from_numpy(answers[name]) for name in self.task.outputs}
        self.teacher_score = self.score(self._answers[self.task.outputs[0]][self.held])

    def feed(self, rows: Any) -> dict[str, torch.Tensor]:
        """Inputs by name, as they are."""
        return {name: value[rows] for name, value in self._inputs.items()}

    def batch(self, rows: Any) -> tuple[dict[str, torch.Tensor], Mapping[str, torch.Tensor], torch.Tensor | None]:
        """Inputs, augmented; what the teacher says to them; labels."""
        import torch

        feed, labels = self.feed(rows), None if self._labels is None else self._labels[rows]
        if self._augmentation is not None:
            feed = _augmented(self._augmentation, feed, self._title)
        if not self._again:
            return feed, {name: value[rows] for name, value in self._answers.items()}, labels
        given = self._teacher.answer({name: np.ascontiguousarray(value.numpy()) for name, value in feed.items()})
        return feed, {name: torch.from_numpy(value) for name, value in given.items()}, labels

    def score(self, answers: torch.Tensor) -> float:
        """How good answers to the samples in `held` are, 0 to 1."""
        teacher = self._answers[self.task.outputs[0]][self.held]
        return self.task.score(answers, teacher, None if self._labels is None else self._labels[self.held])


def _answers(training: Dataset, teacher: Teacher, progress: Progress) -> dict[str, Any]:
    parts: list[Mapping[str, Any]] = []
    for number, feed in enumerate(training.batches(_ASKED)):
        progress(0.0, f"asking the teacher {number * _ASKED}/{len(training)}")
        parts.append({name: value for name, value in teacher.answer(feed).items() if name in teacher.outputs})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _augmented(augment: Callable[..., Any], feed: dict[str, torch.Tensor], title: str) -> dict[str, torch.Tensor]:
    import torch

    [name, *others] = feed
    try:
        with torch.no_grad():
            made = augment({key: value.clone() for key, value in feed.items()} if others else feed[name].clone())
        changed = dict(made) if others else {name: made}
    except Exception as error:
        raise OptionsError(
            f"The function {title} fails on a batch: {type(error).__name__}: {first_sentence(error)}.",
            "It takes a batch of inputs as a tensor (a dict of them where there are several) and returns it changed.",
        ) from None
    for key, value in feed.items():
        got = changed.get(key)
        if not isinstance(got, torch.Tensor) or got.shape != value.shape or got.dtype != value.dtype:
            raise OptionsError(
                f"The function {title} does not return what it was given: {list(value.shape)} of {value.dtype}.",
                "Return a batch of the same shape and type.",
            )
    return changed
