"""Writes into a model's own metadata what was done to it, so that anyone who has the file can do it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.dataset import Dataset

KEY = "workbench.transforms"


@dataclass(frozen=True)
class Made:
    """One step.

    Attributes:
        transform: Its name.
        options: All of its options.
        model: SHA-256 of the model that it was applied to.
        dataset: Its samples; None if it takes none.
        versions: Of the packages that it used.
    """

    transform: str
    options: Mapping[str, Any]
    model: str
    dataset: Dataset | None
    versions: Mapping[str, str]


def record(path: Path, made: Made) -> None:
    """Adds a step to those that the file names under `workbench.transforms`.

    The value is a JSON list in the order of the steps; `transform` and `options` of each are what a recipe has under
    `transforms`. Weights in external files are not read.
    """
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    steps = _steps(proto)
    entry: dict[str, Any] = {"transform": made.transform, "options": made.options, "model": made.model}
    if made.dataset is not None:
        samples = {"name": made.dataset.name, "samples": len(made.dataset), "sha256": made.dataset.sha256}
        entry["dataset"] = samples
    entry["versions"] = made.versions
    kept = [one for one in proto.metadata_props if one.key != KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=KEY, value=json.dumps([*steps, entry]))
    onnx.save(proto, str(path))


def _steps(proto: Any) -> list[Any]:
    """The steps that an earlier transform wrote; none where the text is no list of ours."""
    text = next((one.value for one in proto.metadata_props if one.key == KEY), "[]")
    try:
        steps = json.loads(text)
    except ValueError:
        return []
    return steps if isinstance(steps, list) else []
