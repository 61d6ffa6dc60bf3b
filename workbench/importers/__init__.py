"""Importers: one file each turns what training left behind into a checked ONNX model; samples load here too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from workbench.dataset import Dataset, read_npz
from workbench.errors import ModelError
from workbench.importers._convert import convert_file, convert_object
from workbench.jobs import Progress, silent
from workbench.model import Model, check_file
from workbench.options import make_options
from workbench.plugins import find_plugin, plugin_modules
from workbench.samples import SAMPLE_PREFIX, sample_dataset, sample_model_path
from workbench.workspace import Workspace


def load_model(
    source: Any,
    options: Mapping[str, Any] | None = None,
    *,
    samples: Any = None,
    trust: bool = False,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Model:
    """Loads a trained model, whatever its format, as ONNX.

    A file that is not ONNX is converted in a fresh subprocess, the original and the ONNX model run on the same
    inputs, and both are kept in the workspace; `Model.conversion` says how near they are.

    Args:
        source: A path, whose suffix says which importer reads it; `sample:digits` for the bundled model; or a
            `torch.nn.Module`.
        options: Options of that importer.
        samples: Inputs to convert and compare with: a Dataset, or a mapping of arrays by input name; for a module
            also a tuple of its arguments. Random values if None, where the model says what it takes.
        trust: Whether the file may run code of its own, which some formats need; only for files of your own.
        workspace: Where conversions are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ModelError: The file cannot be used; the message says why and what to do.
        ConversionError: It cannot become ONNX, or its ONNX model computes something else.
        DatasetError: The samples do not fit the model.
        OptionsError: An option does not exist or has a value it cannot have.
    """
    if isinstance(source, str) and source.startswith(SAMPLE_PREFIX):
        source = sample_model_path(source)
    if not isinstance(source, str | Path):
        name = _importer_of_object(source)
        checked = make_options(find_plugin("importers", name).Options, options, f"importer {name}")
        return convert_object(name, source, checked, samples, workspace or Workspace(), progress)
    path = Path(source).expanduser()
    name = importer_for(path)
    importer = find_plugin("importers", name)
    checked = make_options(importer.Options, options, f"importer {name}")
    if hasattr(importer, "load"):
        model: Model = importer.load(path, checked)
        return model
    if path.name in _folder_marks(importer):
        path = path.parent
    if isinstance(samples, Mapping):
        samples = Dataset(samples)
    return convert_file(name, path.absolute(), checked, samples, trust, workspace or Workspace(), progress)


def load_dataset(source: str | Path, split: Literal["training", "calibration", "evaluation"]) -> Dataset:
    """Loads samples.

    Args:
        source: An `.npz` file with one array per model input (and `labels`), or `sample:digits`.
        split: Which part of a bundled sample; a file is taken whole.

    Raises:
        DatasetError: The file cannot be used.
    """
    if str(source).startswith(SAMPLE_PREFIX):
        return sample_dataset(str(source), split)
    return read_npz(Path(source).expanduser())


def importer_for(path: Path) -> str:
    """Names the importer that reads this file or folder, whether or not what it needs is installed.

    Raises:
        ModelError: None does.
    """
    if os.path.isdir(path):  # noqa: PTH112 (False where pathlib raises: a name too long, a folder without rights)
        for name, plugin in plugin_modules("importers").items():
            if any((path / marker).is_file() for marker in _folder_marks(plugin)):
                return name
    check_file(path)
    suffixes = model_suffixes()
    if path.suffix.lower() not in suffixes:
        raise ModelError(
            f"{path} ends in '{path.suffix}', which no importer reads.",
            f"Formats: {', '.join(sorted(suffixes))}. Rename the file if it is one of these.",
        )
    return suffixes[path.suffix.lower()]


def model_suffixes() -> dict[str, str]:
    """File suffix → importer, e.g. `{'.onnx': 'onnx'}`, of all importers."""
    return {suffix: name for name, plugin in plugin_modules("importers").items() for suffix in plugin.SUFFIXES}


def _folder_marks(importer: ModuleType) -> tuple[str, ...]:
    """Files by which an importer knows a folder as a model of its format."""
    marks: tuple[str, ...] = getattr(importer, "FOLDERS", ())
    return marks


def _importer_of_object(value: Any) -> str:
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__}
    for name, plugin in plugin_modules("importers").items():
        if kinds & set(getattr(plugin, "TYPES", ())):
            return name
    raise ModelError(
        f"A {type(value).__name__} is neither a path nor a model that an importer takes.",
        "Give a path, or a torch.nn.Module with its inputs as samples.",
    )
