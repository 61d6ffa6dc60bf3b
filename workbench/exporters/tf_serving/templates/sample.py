"""The sample request of this package and its expected answer as arrays, and the comparison with what came back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def read(name: str) -> Any:
    """A JSON file of this package."""
    return json.loads((HERE / name).read_bytes())


def to_arrays(tensors: list[dict[str, Any]], values: Any) -> dict[str, Any]:
    """Name → array, of what TensorFlow Serving's JSON has under `inputs` or `outputs`.

    Args:
        tensors: What `signature.json` says of them.
        values: A value for each name, or the value alone where there is one tensor only.
    """
    named = values if isinstance(values, dict) else {tensors[0]["name"]: values}
    return {tensor["name"]: np.array(named[tensor["name"]], tensor["dtype"]) for tensor in tensors}


def compare(signature: dict[str, Any], found: Mapping[str, Any]) -> int:
    """Says how far each output is from the expected one; 1 if one is too far."""
    wanted = to_arrays(signature["outputs"], read("sample_response.json")["outputs"])
    allowed = signature["tolerance"]
    return max(_compare(name, found.get(name), array, allowed) for name, array in wanted.items())


def _compare(name: str, found: Any, wanted: Any, allowed: dict[str, float]) -> int:
    if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
        got = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        print(f"{name}: NOT as expected: {got} in place of {wanted.dtype} {list(wanted.shape)}")
        return 1
    if found.tobytes() == wanted.tobytes():
        print(f"{name}: as expected, bit by bit")
        return 0
    error = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    largest = float(np.abs(wanted.astype(np.float64)).max())
    fits = error <= max(allowed["always"], allowed["of_largest_value"] * largest)  # not so for NaN
    print(f"{name}: {'as expected' if fits else 'NOT as expected'} (largest difference {error:.2g})")
    return 0 if fits else 1
