"""One node of an ONNX graph as PyTorch is to compute it, and reading its axes and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from workbench.errors import ModelError, TransformError

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "Sequence[torch.Tensor | None]"


@dataclass(frozen=True)
class Purpose:
    """What a graph is made a module for, as far as refusals say it.

    Attributes:
        error: Class of the error.
        done: What cannot be done with it, e.g. `trained`.
        known_to: What does not know an operator, e.g. `the trainer`.
        remedy: The way around, without the full stop.
    """

    error: type[TransformError | ModelError]
    done: str
    known_to: str
    remedy: str


TRAINING = Purpose(
    TransformError,
    "trained",
    "the trainer",
    "Give a torch module as the student instead (the text that names the function which builds it)",
)
RUNNING = Purpose(
    ModelError,
    "run by PyTorch",
    "the workbench's PyTorch backend",
    "Name the function that builds the torch module as `factory` and its weights as `weights`, or use another backend",
)


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        operator: Its operator.
        name: Its name, or that of its first output.
        attributes: Their values as Python's own types, tensors as arrays.
        inputs: Names of its inputs; empty where one is left out.
        outputs: Names of its outputs.
        opset: Version of ONNX's operator set that it is read by.
        purpose: What it is read for.
    """

    operator: str
    name: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    purpose: Purpose = TRAINING

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.attributes.get(name, default)

    def refuse(self, what: str) -> TransformError | ModelError:
        """The error for what the executor cannot do."""
        return self.purpose.error(
            f"The node '{self.name}' ({self.operator}) cannot be {self.purpose.done} here: {what}.",
            f"{self.purpose.remedy}, or replace the layer.",
        )


# An operator: the node, its inputs, and whether the graph is being trained; one tensor, or one for each output.
Operator: TypeAlias = "Callable[[Node, Values, bool], torch.Tensor | Sequence[torch.Tensor]]"


def given(inputs: Values, place: int) -> Any:
    """The input at a place, or None where it is left out."""
    return inputs[place] if place < len(inputs) else None


def numbers(node: Node, inputs: Values, attribute: str, place: int) -> list[int] | None:
    """Axes or sizes, which are an attribute in old operator sets and an input in new ones; None if neither is there."""
    value = node.get(attribute)
    if value is None:
        tensor = given(inputs, place)
        if tensor is None or isinstance(tensor, list):  # numbers already, where the graph is run and not trained
            return tensor
        return [int(number) for number in tensor.reshape(-1).tolist()]
    return [int(number) for number in (value if isinstance(value, list | tuple) else [value])]
