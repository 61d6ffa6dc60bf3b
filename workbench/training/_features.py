"""Features: inner tensors of the student that are to become like those of the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import OptionsError, TransformError

if TYPE_CHECKING:
    import torch

_SMALL = 1e-8


def read_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Reads `teacher_tensor=student_tensor`; one name alone is that of both.

    Raises:
        OptionsError: It is written otherwise, or nothing is there to be matched.
    """
    halves = [text.rpartition("=") if "=" in text else (text, "", text) for text in texts]
    pairs = [(teacher.strip(), student.strip()) for teacher, _, student in halves]
    if not pairs or not all(teacher and student for teacher, student in pairs):
        raise OptionsError(
            "`feature_weight` is above 0, but `features` does not say which tensors to match.",
            "Write them as teacher_tensor=student_tensor, or set feature_weight to 0.",
        )
    return pairs


def make_projections(
    pairs: Sequence[tuple[str, str]], student: Mapping[str, Any], teacher: Mapping[str, Any]
) -> torch.nn.ModuleDict:
    """A linear map for each pair that differs along one axis, a 1×1 convolution where that is the channels; by number.

    Args:
        pairs: Names of the teacher's and the student's tensors.
        student: The student's tensors on a few samples.
        teacher: The teacher's on the same.

    Raises:
        TransformError: A pair differs along more than one axis.
    """
    import torch

    projections = torch.nn.ModuleDict()
    for number, (wanted, name) in enumerate(pairs):
        own = tuple(student[name].shape) if isinstance(student[name], torch.Tensor) else ()
        shape = tuple(teacher[wanted].shape)
        axes = [axis for axis, (mine, theirs) in enumerate(zip(own, shape, strict=False)) if mine != theirs]
        if len(own) != len(shape) or len(axes) > 1 or axes == [0]:
            raise TransformError(
                f"The feature '{name}' of the student has shape {list(own)}, the teacher's '{wanted}' {list(shape)}: "
                "they differ in more than their channels.",
                "Match tensors of the same height and width.",
            )
        if axes:
            projections[str(number)] = torch.nn.Linear(own[axes[0]], shape[axes[0]])
    return projections


def feature_loss(
    pairs: Sequence[tuple[str, str]],
    student: Mapping[str, torch.Tensor],
    teacher: Mapping[str, torch.Tensor],
    projections: torch.nn.ModuleDict,
) -> Any:
    """FitNets (Romero et al., 2015): mean square between features, the student's projected where channels differ.

    Each is divided by the mean square of the teacher's, so that 1 is what a student that gives zeros has.
    """
    from torch.nn import functional

    parts = []
    for number, (wanted, name) in enumerate(pairs):
        own, goal = student[name], teacher[wanted]
        if str(number) in projections:
            axis = next(axis for axis, (a, b) in enumerate(zip(own.shape, goal.shape, strict=True)) if a != b)
            own = projections[str(number)](own.movedim(axis, -1)).movedim(-1, axis)
        parts.append(functional.mse_loss(own, goal) / goal.square().mean().clamp_min(_SMALL))
    return sum(parts) / len(parts)
