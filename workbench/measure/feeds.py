"""What a model is fed while it is measured: its samples, or random values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.dataset import Dataset
from workbench.engine import Engine, random_feed
from workbench.errors import OptionsError


def make_feed(engine: Engine, dataset: Dataset | None, batch: int) -> dict[str, NDArray[Any]]:
    """The first samples of a dataset, repeated where there are fewer than the batch takes.

    Args:
        engine: What is fed.
        dataset: Samples; random values if there are none.
        batch: Samples per inference.

    Raises:
        OptionsError: The model takes another batch only.
        DatasetError: The samples do not fit the model.
    """
    fixed = engine.model.fixed_batch
    if fixed not in (None, batch):
        raise OptionsError(
            f"{engine.model.name} has a fixed batch of {fixed}; it cannot be measured at batch {batch}.",
            f"Set batch to {fixed}, or export the model with a dynamic batch.",
        )
    if dataset is None:
        return random_feed(engine.model, batch)
    dataset.check_fits(engine.model)
    return {
        name: np.ascontiguousarray(np.resize(array, (batch, *array.shape[1:])))
        for name, array in dataset.take(batch).inputs.items()
    }
