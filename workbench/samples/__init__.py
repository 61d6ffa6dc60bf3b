"""The bundled sample: a small trained network and the digit images that calibrate and score it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from workbench.dataset import Dataset
from workbench.errors import ModelError

SAMPLE_PREFIX = "sample:"


def sample_model_path(name: str) -> Path:
    """Path of the bundled model that `sample:digits` names.

    Raises:
        ModelError: No sample has that name.
    """
    from workbench.samples import digits

    _check(name)
    return digits.MODEL_PATH


def sample_dataset(name: str, split: Literal["training", "calibration", "evaluation"]) -> Dataset:
    """Samples of the bundled data that `sample:digits` names.

    Raises:
        ModelError: No sample has that name.
    """
    from workbench.samples import digits

    _check(name)
    images, labels = digits.load_split(split)
    return Dataset({"image": images}, labels, f"digits {split} samples")


def _check(name: str) -> None:
    if name != f"{SAMPLE_PREFIX}digits":
        raise ModelError(f"There is no sample '{name}'.", f"Known: {SAMPLE_PREFIX}digits.")
