"""What an importer makes of a file before it becomes ONNX: a model that its own framework can run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.jobs import Progress
from workbench.options import option


@dataclass(frozen=True)
class ConversionOptions:
    """What every conversion to ONNX asks for."""

    name: Annotated[str, option("Name in tables and packages; the file's own name if empty.")] = ""
    opset: Annotated[int, option("Operator set of the ONNX model.", minimum=13, maximum=26, advanced=True)] = 18
    tolerance: Annotated[
        float,
        option("Largest difference from the original, as a share of the output's range.", minimum=0, advanced=True),
    ] = 1e-3


class Source:
    """A trained model, opened in the framework that it was trained in.

    Attributes:
        framework: The framework with its version, e.g. `Keras 3.15.1`.
        notes: What was changed or assumed on the way to ONNX, in sentences; complete once `write_onnx` is done.
        coarse: Whether it computes in integers, where one rounding step more or less is no fault.
        samples: The user's inputs to compare on, named and laid out as the ONNX model takes them; None if there
            are none, and random values are taken.
        example: Random values in sizes that the model really takes, by input name; None if any size of a free axis
            will do.
    """

    framework = ""
    coarse = False

    def __init__(self, samples: Dataset | None = None) -> None:
        self.samples = samples
        self.example: Tensors | None = None
        self.notes: list[str] = []

    def write_onnx(self, target: Path, progress: Progress) -> None:
        """Writes the model as ONNX; weights that do not fit into the file go beside it."""
        raise NotImplementedError

    def infer(self, feed: Tensors) -> Sequence[NDArray[Any]]:
        """Runs the original.

        Args:
            feed: Inputs as the ONNX model takes them: its names, types and layout.

        Returns:
            The outputs in the order and layout of the ONNX model's.
        """
        raise NotImplementedError

    def value_names(self) -> Collection[str]:
        """ONNX names of the inner values that `values` can give; empty if it cannot look inside."""
        return ()

    def values(self, feed: Tensors, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Runs the original and returns inner values by their ONNX names."""
        raise NotImplementedError
