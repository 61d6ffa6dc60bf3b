"""What a conversion to ONNX kept of the original: the record that every imported model carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OutputCheck:
    """One output of the ONNX model against the same output of the original.

    Attributes:
        output: Name of the output.
        max_abs_error: Largest absolute difference of any value.
        range: Largest absolute value that the original gave: what the difference is to be seen against.
        cosine_similarity: Of both outputs, each taken as one vector; 1 is the same direction.
        top1_agreement: Share of rows whose largest value stands in the same place; None where an output has no rows.
    """

    output: str
    max_abs_error: float
    range: float
    cosine_similarity: float
    top1_agreement: float | None


@dataclass(frozen=True)
class Conversion:
    """How a model became ONNX, and how near the result is to the original.

    Attributes:
        framework: What the original was and ran in, with its version, e.g. `PyTorch 2.13.0`.
        checks: One per output; both sides ran on the same inputs.
        samples: How many samples they ran on.
        inputs: Where those came from, e.g. `random values` or a dataset's name.
        tolerance: Largest allowed `max_abs_error`, as a share of `range`.
        notes: What changed or was assumed, in sentences: names, layouts, axes.
    """

    framework: str
    checks: tuple[OutputCheck, ...]
    samples: int
    inputs: str
    tolerance: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        worst = max((check.max_abs_error for check in self.checks), default=0.0)
        return f"from {self.framework}: largest difference {worst:.1g} on {self.samples} samples ({self.inputs})"
