"""What a student's answers cost and how good they are: against the teacher and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.dataset import Dataset, check_labels
from workbench.errors import DatasetError, TransformError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_IGNORED = 255  # the label of pixels that do not count, as segmentation datasets have it
_SMALL = 1e-8  # under a logarithm


@dataclass(frozen=True)
class Task:
    """What the outputs are, and the losses that follow from it.

    Attributes:
        kind: Scores of classes along axis 1, or numbers.
        outputs: Names of the float outputs; the first one answers the labels.
        probabilities: Whether the first output holds probabilities rather than logits.
        labelled: Whether there are labels.
        scale: Per output what a squared difference is divided by: the variance of the teacher's, for numbers.
        temperature: Of the softened probabilities.
        teacher_weight: Of the teacher's answers; the labels get the rest.
    """

    kind: Literal["classification", "regression"]
    outputs: tuple[str, ...]
    probabilities: bool
    labelled: bool
    scale: Mapping[str, float]
    temperature: float
    teacher_weight: float

    def loss(
        self, student: Mapping[str, torch.Tensor], teacher: Mapping[str, torch.Tensor], labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The parts that follow the teacher and the labels, unweighted."""
        from torch.nn import functional

        first = self.outputs[0]
        follow = sum(self._follow(name, student[name], teacher[name]) for name in self.outputs) / len(self.outputs)
        if labels is None:
            return follow, None
        if self.kind == "classification":
            return follow, functional.cross_entropy(self._logits(student[first]), labels.long(), ignore_index=_IGNORED)
        target = labels.float().reshape(student[first].shape)
        return follow, functional.mse_loss(student[first], target) / self.scale[first]

    def total(self, follow: Any, label: Any) -> Any:
        """Both parts weighted; without labels the teacher alone counts."""
        return follow if label is None else self.teacher_weight * follow + (1 - self.teacher_weight) * label

    def _follow(self, name: str, student: torch.Tensor, teacher: torch.Tensor) -> Any:
        """Hinton et al. (2015): T² · KL(teacher ‖ student) of the softened probabilities; numbers: mean square."""
        from torch.nn import functional

        if self.kind == "regression" or name != self.outputs[0]:
            return functional.mse_loss(student, teacher) / self.scale[name]
        soft = functional.log_softmax(self._logits(student) / self.temperature, 1)
        target = functional.log_softmax(self._logits(teacher) / self.temperature, 1)
        distance = functional.kl_div(soft, target, reduction="none", log_target=True)
        return distance.sum(1).mean() * self.temperature**2

    def _logits(self, scores: torch.Tensor) -> torch.Tensor:
        return (scores + _SMALL).log() if self.probabilities else scores

    def score(self, answers: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor | None) -> float:
        """How good answers to the first output are, 0 to 1; see `Epoch.score`."""
        if self.kind == "classification":
            target = teacher.argmax(1) if labels is None else labels
            counted = target != _IGNORED if target.ndim > 1 else target == target
            return float((answers.argmax(1) == target)[counted].double().mean())
        wanted = (teacher if labels is None else labels).double().reshape(answers.shape)
        variance = float(wanted.var(correction=0))
        error = float((answers.double() - wanted).square().mean())
        return max(0.0, 1 - error / variance) if variance else float(error == 0)


def make_task(
    answers: Mapping[str, NDArray[Any]],
    training: Dataset,
    loss: str,
    *,
    temperature: float,
    teacher_weight: float,
) -> Task:
    """Works out what the outputs are from the teacher's answers to all training samples, and checks the labels.

    Raises:
        DatasetError: The labels do not fit the outputs.
        TransformError: The outputs are nothing that can be followed.
    """
    outputs = tuple(name for name, array in answers.items() if array.dtype.kind == "f")
    if not outputs:
        raise TransformError(
            "The teacher's outputs hold no floating-point numbers, so there is nothing to follow.",
            "Train the model up to its scores, without the operator that makes classes of them.",
        )
    bad = next((name for name in outputs if not np.isfinite(answers[name]).all()), None)
    if bad is not None:
        raise TransformError(
            f"The teacher answers NaN or infinite values in '{bad}' on {training.name}.",
            "Check that the samples are scaled as the teacher was trained with.",
        )
    first, labels = answers[outputs[0]], training.labels
    classes = first.ndim >= 2 and first.shape[1] > 1
    whole = labels is not None and labels.dtype.kind in "iu" and labels.ndim == first.ndim - 1
    kind: Any = loss
    if loss == "auto":
        scores = classes and (whole if labels is not None else first.ndim == 2)
        kind = "classification" if scores else "regression"
    if kind == "classification" and not classes:
        raise TransformError(
            f"The teacher's first output '{outputs[0]}' has shape {_shape(first)}, which holds no scores of classes.",
            "Choose regression as the loss.",
        )
    if labels is not None:
        _check_fit(training, first, kind, outputs[0])
    probabilities = kind == "classification" and are_probabilities(first)
    scale = {name: float(answers[name].astype(np.float64).var()) or 1.0 for name in outputs}
    return Task(kind, outputs, probabilities, labels is not None, scale, temperature, teacher_weight)


def are_probabilities(scores: Any) -> bool:
    """Whether scores, classes along axis 1, lie between 0 and 1 and sum to 1."""
    return bool((scores >= 0).all() and (abs(scores.sum(1) - 1) < 1e-3).all())


def _check_fit(training: Dataset, first: NDArray[Any], kind: str, output: str) -> None:
    labels = training.labels
    assert labels is not None
    if kind == "classification":
        ignored = _IGNORED if first.ndim > 2 else None
        form = "one class number per sample" if first.ndim == 2 else "the class of each place"
        check_labels(training, first.shape[1], form, first.ndim - 1, ignored)
        if first.ndim > 2 and labels.shape != (first.shape[0], *first.shape[2:]):
            raise _misfit(training, labels, first, output)
    elif labels.size != first.size:
        raise _misfit(training, labels, first, output)
    elif labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DatasetError(
            f"The labels of {training.name} hold NaN or infinite values.", "Remove or repair those samples."
        )


def _misfit(training: Dataset, labels: NDArray[Any], first: NDArray[Any], output: str) -> DatasetError:
    return DatasetError(
        f"The labels of {training.name} have shape {_shape(labels)}, the teacher's output '{output}' {_shape(first)}.",
        "Give class numbers (integers), targets of the output's shape, or no labels: then the teacher alone is "
        "followed.",
    )


def _shape(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape))
