"""Numeric difference of two models' outputs; never mixed with what a model is for, which is accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OutputError:
    """Numeric difference of the outputs from the original's, over all values that are finite in both.

    Attributes:
        max_abs_error: Largest absolute difference; None if no value is finite.
        cosine_similarity: Of all values taken as one vector; None if no value is finite.
        sqnr_db: Signal-to-quantization-noise ratio, dB; None if the outputs are equal or one is all zero.
        invalid: Values that are NaN or infinite in one of them, and not the same in the other.
    """

    max_abs_error: float | None
    cosine_similarity: float | None
    sqnr_db: float | None
    invalid: int = 0


def output_error(original: NDArray[Any], candidate: NDArray[Any]) -> OutputError | None:
    """Numeric difference of two outputs; None if their shapes differ."""
    if original.shape != candidate.shape:
        return None
    signal, other = original.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    finite = np.isfinite(signal) & np.isfinite(other)
    alike = finite | (signal == other) | (np.isnan(signal) & np.isnan(other))
    invalid = int((~alike).sum())
    if signal.size and not finite.any():
        return OutputError(None, None, None, invalid)
    signal, other = signal[finite], other[finite]
    noise = float(np.square(signal - other).sum())
    norms = float(np.linalg.norm(signal) * np.linalg.norm(other))
    return OutputError(
        max_abs_error=float(np.abs(signal - other).max(initial=0.0)),
        cosine_similarity=float(signal @ other) / norms if norms else float(noise == 0),
        sqnr_db=10 * float(np.log10(np.square(signal).sum() / noise)) if noise and norms else None,
        invalid=invalid,
    )
