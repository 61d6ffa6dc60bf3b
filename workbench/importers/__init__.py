"""Importers: one file each turns what training left behind into a checked ONNX model; samples load here too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from workbench.dataset import Dataset, read_npz
from workbench.errors import ModelError
from workbench.model import Model, check_file
from workbench.options import make_options
from workbench.plugins import find_plugin, list_plugins
from workbench.samples import SAMPLE_PREFIX, sample_dataset, sample_model_path


def load_model(source: str | Path, options: Mapping[str, Any] | None = None) -> Model:
    """Loads a trained model, whatever its format; the file's suffix says which importer reads it.

    Args:
        source: A path, or `sample:digits` for the bundled model.
        options: Options of that importer.

    Raises:
        ModelError: The file cannot be used; the message says why and what to do.
        OptionsError: An option does not exist or has a value it cannot have.
    """
    if str(source).startswith(SAMPLE_PREFIX):
        source = sample_model_path(str(source))
    path = Path(source).expanduser()
    name = importer_for(path)
    importer = find_plugin("importers", name)
    model: Model = importer.load(path, make_options(importer.Options, options, f"importer {name}"))
    return model


def load_dataset(source: str | Path, split: Literal["calibration", "evaluation"]) -> Dataset:
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
    """Names the importer that reads files with this suffix.

    Raises:
        ModelError: None does.
    """
    suffixes = model_suffixes()
    check_file(path)
    if path.suffix.lower() not in suffixes:
        raise ModelError(
            f"{path} ends in '{path.suffix}', which no importer reads.",
            f"Formats: {', '.join(sorted(suffixes))}. Rename the file if it is one of these.",
        )
    return suffixes[path.suffix.lower()]


def model_suffixes() -> dict[str, str]:
    """File suffix → importer, e.g. `{'.onnx': 'onnx'}`."""
    return {
        suffix: plugin.name
        for plugin in list_plugins("importers")
        if plugin.available
        for suffix in find_plugin("importers", plugin.name).SUFFIXES
    }
