"""Copies a model out of the workspace, its weights in other files included."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

from workbench.errors import ModelError
from workbench.model import Model
from workbench.workspace import replacing, writing


def save_model(model: Model, path: str | Path) -> Model:
    """Writes a model to a file of the user's; nothing is overwritten, and nothing half-written stays.

    Args:
        model: Any model.
        path: The `.onnx` file to write; weights in other files go beside it under their own names.

    Returns:
        The model at its new place.

    Raises:
        ModelError: A file of that name exists already.
        WorkspaceError: The place cannot be written.
    """
    path = Path(path).expanduser().absolute()
    parts = {path: model.path}  # the model last: where it is, its weights are
    parts = {path.parent / name: model.path.parent / name for name in model.external_files} | parts
    for target in parts:
        if target.exists():
            raise ModelError(f"{target} exists already, and nothing is overwritten.", "Choose another name or folder.")
    with contextlib.ExitStack() as undo:
        for target, source in parts.items():
            undo.callback(target.unlink, missing_ok=True)
            with writing(target), replacing(target) as temporary:
                shutil.copyfile(source, temporary)
        undo.pop_all()
    return dataclasses.replace(model, path=path)
