"""The checkpoint of a training: what a run that was cut off goes on from, and when it may."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.training.options import Epoch
from workbench.workspace import replacing, writing

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"


class Checkpoint:
    """A file that follows what learns.

    Args:
        folder: Where it lies.
        learner: What learns, with the weights that it begins with.
        optimizer: What changes them.
    """

    def __init__(self, folder: Path, learner: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._path, self._learner, self._optimizer = folder / CHECKPOINT, learner, optimizer
        self._initial = _digest(learner.state_dict())

    def save(self, epochs: Sequence[Epoch], best: Any) -> None:
        """Writes how things stand, whole or not at all.

        Args:
            epochs: All so far.
            best: Weights of the best of them.
        """
        import torch

        content = {
            "initial": self._initial,
            "epochs": [asdict(epoch) for epoch in epochs],
            "weights": self._learner.state_dict(),
            "best": best,
            "optimizer": self._optimizer.state_dict(),
        }
        with writing(self._path), replacing(self._path) as temporary:
            torch.save(content, temporary)

    def load(self) -> tuple[list[Epoch], Any]:
        """Puts the learner and the optimizer back to where they stood, if the file is whole and theirs.

        It is theirs if the learner began with the same weights.

        Returns:
            The epochs so far and the weights of the best; none if there is nothing to go on from.
        """
        import torch

        try:
            content = torch.load(self._path, weights_only=True)
            if content["initial"] != self._initial:
                return [], None
        except Exception:  # there is none, or bytes that are not what they should be, which raise anything
            return [], None
        self._learner.load_state_dict(content["weights"])
        self._optimizer.load_state_dict(content["optimizer"])
        return [Epoch(**epoch) for epoch in content["epochs"]], content["best"]


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(np.ascontiguousarray(value.detach().numpy()).tobytes())
    return digest.hexdigest()
