"""How a student learns, and what came of it: the nouns of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from workbench.model import Model
from workbench.options import option


@dataclass(frozen=True)
class TrainingOptions:
    """How the student learns."""

    epochs: Annotated[int, option("Passes over the training samples.", minimum=1, maximum=10_000)] = 30
    batch: Annotated[int, option("Samples per step.", minimum=1, maximum=4096, unit="samples")] = 64
    learning_rate: Annotated[
        float,
        option("Peak learning rate of AdamW; a tenth of it where BatchNormalization is folded.", minimum=0, maximum=1),
    ] = 2e-3
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
        option(
            "Tensors to match (Romero et al., 2015); of a torch student, the name of a submodule.",
            example="teacher_tensor=student_tensor",
            advanced=True,
        ),
    ] = ()
    loss: Annotated[
        Literal["auto", "classification", "regression"],
        option("What the outputs are: scores of classes, or numbers; auto goes by outputs and labels.", advanced=True),
    ] = "auto"
    patience: Annotated[
        int, option("Epochs without a better validation score before it stops; 0 never stops.", minimum=0)
    ] = 0
    validation_share: Annotated[
        float,
        option(
            "Share of the training samples held back to score each epoch; with 0 it is scored on those it learns from.",
            minimum=0,
            maximum=0.9,
            advanced=True,
        ),
    ] = 0.15
    augment: Annotated[
        str,
        option(
            "Function that changes a batch of inputs, a tensor (several inputs: a dict of them): "
            "package.module:function or file.py:function.",
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
        teacher_loss: The part that follows the teacher, unweighted.
        label_loss: The part that follows the labels; None without labels.
        feature_loss: The part that matches features; None without.
        score: The validation score, 0 to 1: accuracy, or without labels agreement with the teacher; of numbers the
            share of their variance that is explained (R², 0 if negative).
        seconds: How long it took, s.
        best: Whether no earlier epoch scored better.
    """

    number: int
    loss: float
    teacher_loss: float
    label_loss: float | None
    feature_loss: float | None
    score: float
    seconds: float
    best: bool


Ended = Literal["finished", "early", "cancelled"]


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
    ended: Ended
    teacher_score: float
    parameters: int
    teacher_parameters: int
