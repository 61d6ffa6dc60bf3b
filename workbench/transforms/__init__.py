"""Transforms: one file each turns a model into a smaller or faster one."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import jobs
from workbench.dataset import Dataset, StoredDataset, store
from workbench.errors import DatasetError, TransformError
from workbench.jobs import Progress, silent
from workbench.model import Model, Step, read_model
from workbench.options import make_options, to_builtins
from workbench.plugins import find_plugin, required_versions
from workbench.transforms._record import Made, record
from workbench.workspace import Workspace, read_json, write_json, writing

_BIG = 2**25  # bytes of samples that are handed over in a file: the worker then holds a batch at a time
_NOTES = "notes.json"  # what a transform said, beside the model that it made


def transform(
    model: Model,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    dataset: Dataset | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Model:
    """Applies one transform in a fresh subprocess and keeps the result in the workspace.

    Args:
        model: The model to change; its file stays as it is.
        name: A plugin of `workbench.transforms`, e.g. `quantize_static`.
        options: Options of that transform.
        dataset: Calibration samples, for the transforms that need them.
        workspace: Where the result is kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        TransformError: The transform cannot be applied to this model.
        DatasetError: The samples are missing or do not fit the model.
        OptionsError: An option does not exist or has a value it cannot have.
    """
    plugin = find_plugin("transforms", name)
    checked = make_options(plugin.Options, options, name)
    if plugin.NEEDS_DATASET:
        if dataset is None:
            raise DatasetError(
                f"{name} needs calibration samples, and none were given.",
                "Pass dataset=… (--data on the command line): about 100 typical inputs, no labels needed.",
            )
        dataset.check_fits(model)
    else:
        dataset = None  # it does not decide the result, so it must not decide the key
    step = Step(name, to_builtins(checked))
    key = {
        "model": model.sha256,
        "step": step,
        "dataset": dataset.sha256 if dataset else None,
        "versions": required_versions(plugin),
    }
    workspace = workspace or Workspace()

    def make(folder: Path) -> None:
        target = folder / f"{model.path.stem}.onnx"
        samples: Dataset | StoredDataset | None = dataset
        with writing(target), tempfile.TemporaryDirectory(dir=folder) as scratch:
            if dataset is not None and sum(array.nbytes for array in dataset.inputs.values()) > _BIG:
                samples = store(dataset, Path(scratch) / "samples")
            jobs.run(_apply, name, model, checked, samples, target, progress=progress)

    folder = workspace.artifact("models", key, make)
    [path] = folder.glob("*.onnx")
    if (said := folder / _NOTES).is_file():
        step = dataclasses.replace(step, notes=read_json(said, tuple[str, ...]))
    made = read_model(path, name=model.name, history=(*model.history, step), source=model.source)
    return dataclasses.replace(made, conversion=model.conversion)


def _apply(
    name: str, model: Model, options: Any, samples: Dataset | StoredDataset | None, target: Path, progress: Progress
) -> None:
    """Runs in the worker: a broken model or a lack of memory ends this process only."""
    plugin = find_plugin("transforms", name)
    dataset = samples.open() if isinstance(samples, StoredDataset) else samples
    tempfile.tempdir = str(target.parent)  # what libraries leave behind when they are ended goes with the folder
    with writing(target):
        notes = plugin.apply(model, options, dataset, target, progress)
        if notes:
            write_json(target.with_name(_NOTES), notes)
        record(target, Made(name, to_builtins(options), model.sha256, dataset, required_versions(plugin)))
    _check_same_interface(model, read_model(target), name)


def _check_same_interface(before: Model, after: Model, name: str) -> None:
    """A transform may change what is inside, never what the model takes and gives."""
    for kind in ("inputs", "outputs"):
        old, new = getattr(before, kind), getattr(after, kind)
        if [(spec.name, spec.dtype) for spec in old] != [(spec.name, spec.dtype) for spec in new]:
            raise TransformError(
                f"{name} changed the {kind} of {before.name} from "
                f"{', '.join(map(str, old))} to {', '.join(map(str, new))}.",
                "This is a fault of the transform: please report it with the model's graph.",
            )
