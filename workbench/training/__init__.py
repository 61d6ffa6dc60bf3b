"""Training after compression, with the original as teacher: distillation and fine-tuning. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from workbench.dataset import Dataset
from workbench.jobs import Progress, silent
from workbench.model import Model
from workbench.options import option
from workbench.workspace import Workspace


@dataclass(frozen=True)
class TrainingOptions:
    """How the student learns."""

    epochs: Annotated[int, option("Passes over the training samples.", minimum=1, maximum=10_000)] = 30
    batch: Annotated[int, option("Samples per step.", minimum=1, maximum=4096, unit="samples")] = 64
    learning_rate: Annotated[float, option("Peak learning rate of AdamW.", minimum=0, maximum=1)] = 2e-3
    temperature: Annotated[
        float, option("Softens the teacher's probabilities (Hinton et al., 2015).", minimum=0.1, maximum=100)
    ] = 4.0
    teacher_weight: Annotated[
        float, option("Weight of the teacher's answers; the labels get the rest.", minimum=0, maximum=1)
    ] = 0.9
    feature_weight: Annotated[
        float, option("Weight of matching the teacher's features, added to the loss.", minimum=0, maximum=1000)
    ] = 0.0
    features: Annotated[
        tuple[str, ...],
        option("Tensors to match.", example="teacher_tensor=student_tensor", advanced=True),
    ] = ()
    patience: Annotated[
        int, option("Epochs without a better validation score before it stops; 0 never stops.", minimum=0)
    ] = 0
    validation_share: Annotated[
        float, option("Share of the training samples held back to score each epoch.", minimum=0, maximum=0.9, advanced=True)
    ] = 0.15
    augment: Annotated[
        str,
        option(
            "Function that changes a batch of inputs: package.module:function or file.py:function.",
            example="augment.py:shift",
            advanced=True,
        ),
    ] = ""
    threads: Annotated[int, option("Threads that train; 0 takes every physical core.", minimum=0, advanced=True)] = 0
    seed: Annotated[int, option("Of order and initial weights.", minimum=0, advanced=True)] = 0


@dataclass(frozen=True)
class Epoch:
    """One pass over the training samples.

    Attributes:
        number: From 1.
        loss: Mean of the whole loss.
        teacher_loss: The part that follows the teacher.
        label_loss: The part that follows the labels; NaN without labels.
        feature_loss: The part that matches features; NaN without.
        score: The validation score, 0 to 1: accuracy, or without labels agreement with the teacher.
        seconds: How long it took, s.
        best: Whether no earlier epoch scored better.
    """

    number: int
    loss: float
    teacher_loss: float
    label_loss: float
    feature_loss: float
    score: float
    seconds: float
    best: bool


@dataclass(frozen=True)
class Trained:
    """A student and how it learned.

    Attributes:
        model: The student of its best epoch, as ONNX.
        epochs: All of them, also those of earlier, cancelled runs.
        best: Number of the epoch that the model is from.
        ended: Why training ended.
        teacher_score: The teacher's validation score, 0 to 1.
        parameters: Weights of the student.
        teacher_parameters: Weights of the teacher.
    """

    model: Model
    epochs: tuple[Epoch, ...]
    best: int
    ended: Literal["finished", "early", "cancelled"]
    teacher_score: float
    parameters: int
    teacher_parameters: int


def distil(
    teacher: Model,
    student: Model | str | float,
    training: Dataset,
    options: Mapping[str, Any] | TrainingOptions | None = None,
    *,
    name: str = "",
    workspace: Workspace | None = None,
    watch: Callable[[Epoch], None] | None = None,
    progress: Progress = silent,
) -> Trained:
    """Trains a student to answer like the teacher; a cancelled run goes on from its last epoch when called again.

    Args:
        teacher: The model to learn from; it stays as it is.
        student: A smaller model: an ONNX model (its weights are where training starts: this is fine-tuning), the text
            that names a function which builds a `torch.nn.Module` (`nets.py:build`), or a number below 1: a copy of
            the teacher with that share of its channels.
        training: Samples, with labels where there are any; never those that score the result.
        options: Fields of `TrainingOptions`.
        name: The student's name; made from the teacher's if empty.
        workspace: Where checkpoints and the result are kept.
        watch: Called with each finished epoch.
        progress: Called with the share done and a short text; may raise to cancel: the best epoch is kept, and
            `best_so_far` gives it.
    """
    raise NotImplementedError


def best_so_far(
    teacher: Model,
    student: Model | str | float,
    training: Dataset,
    options: Mapping[str, Any] | TrainingOptions | None = None,
    *,
    name: str = "",
    workspace: Workspace | None = None,
) -> Trained | None:
    """The best epoch of a run that was cancelled, by the same arguments; None if no epoch was finished."""
    raise NotImplementedError
