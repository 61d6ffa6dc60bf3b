"""How the inputs of a model are distributed in samples: what drift of a service's requests is told by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.dataset import Dataset


@dataclass(frozen=True)
class InputRange:
    """How an input was distributed in the samples: what its drift is told by.

    Attributes:
        name: The input.
        mean: Mean of all its values.
        deviation: Their standard deviation.
        sample_deviation: Standard deviation of the samples' own means.
        low: Smallest value.
        high: Largest value.
        samples: How many samples.
    """

    name: str
    mean: float
    deviation: float
    sample_deviation: float
    low: float
    high: float
    samples: int


def input_ranges(sample: Dataset) -> tuple[InputRange, ...]:
    """How each numeric input of some samples is distributed."""
    ranges = []
    for name, array in sample.inputs.items():
        if array.dtype.kind in "fiub" and array.size:
            values = np.asarray(array, np.float64)
            means = values.reshape(len(values), -1).mean(axis=1)
            ranges.append(
                InputRange(
                    name,
                    float(values.mean()),
                    float(values.std()),
                    float(means.std()),
                    float(values.min()),
                    float(values.max()),
                    len(values),
                )
            )
    return tuple(ranges)
