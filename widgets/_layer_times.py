"""The time of each node of a model in float and in INT8, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from widgets._sensitivity_data import Times
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.jobs import Progress, part_of
from workbench.measure.profile import profile_layers
from workbench.model import Model
from workbench.workspace import Workspace


def time_layers(
    models: tuple[Model, Model],
    backend: str,
    options: Mapping[str, Any],
    dataset: Dataset,
    workspace: Workspace,
    progress: Progress,
) -> Times:
    """Profiles both forms of a model; what was profiled before is found in the workspace.

    Args:
        models: In float and in INT8.
        backend: What runs them.
        options: Fields of `ProfileOptions`.
        dataset: Whose first samples are fed.
        workspace: Where the profiles are kept.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        By node: ms of one inference in float and in INT8; None where it has no time of its own.
    """
    times = []
    for number, (model, words) in enumerate(zip(models, ("in float", "in INT8"), strict=True)):
        report = part_of(progress, number / 2, (number + 1) / 2, f"timing layers {words}: ")
        engine = build_engine(model, backend)
        times.append(profile_layers(engine, options, dataset=dataset, workspace=workspace, progress=report).node_ms)
    before, after = times
    return {name: (before.get(name), after.get(name)) for name in {**before, **after}}
