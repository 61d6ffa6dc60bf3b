"""Engines that leave the workspace: saved with their model; loaded where they fit, built again where they do not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from workbench.artifact import Manifest, Misfit, check_file, find_manifest, read_manifest
from workbench.backends import build_engine
from workbench.engine import BuildLog, Engine, unheard
from workbench.errors import EngineError
from workbench.jobs import Progress, silent
from workbench.model import read_model
from workbench.options import make_options, to_builtins
from workbench.plugins import find_plugin
from workbench.saving import save_model
from workbench.workspace import new_directory, writing

_MODEL = "model.onnx"
_OURS = "key.json"  # what the workspace alone needs


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that was saved.

    Attributes:
        engine: What can be opened here.
        rebuilt: Why it was built again, in a sentence; empty if it was used as it is.
    """

    engine: Engine
    rebuilt: str = ""


def save_engine(engine: Engine, directory: str | Path) -> Path:
    """Writes an engine with its manifest, its build log and the model that it was built from into a new folder.

    Args:
        engine: One that was built into a file.
        directory: Folder that does not exist yet.

    Returns:
        The folder.

    Raises:
        EngineError: The backend compiles when it opens, so that there is no file; the file is damaged; or the folder
            exists.
        WorkspaceError: The place cannot be written.
    """
    directory = Path(directory).expanduser().absolute()
    if find_manifest(engine) is None:
        raise EngineError(
            f"{engine.backend} compiles {engine.model.name} when it opens it: there is no engine file to save.",
            "Save the model instead: save_model(engine.model, path).",
        )
    check_file(engine)
    if directory.exists():
        raise EngineError(f"{directory} exists already, and nothing is overwritten.", "Choose another folder.")
    with new_directory(directory) as folder:
        for path in engine.path.parent.iterdir():
            if path.name != _OURS:
                with writing(folder):
                    shutil.copyfile(path, folder / path.name)
        save_model(engine.model, folder / _MODEL)
    return directory


def load_engine(
    directory: str | Path,
    *,
    rebuild: bool = True,
    progress: Progress = silent,
    log: BuildLog = unheard,
) -> LoadedEngine:
    """Loads a saved engine; one that is damaged or does not fit this machine is built again from its model.

    Args:
        directory: What `save_engine` wrote.
        rebuild: Whether to build it again; if not, it is refused with the reason.
        progress: Called with the share done and a short text; may raise to cancel.
        log: Called with each line that the backend says while it builds.

    Raises:
        EngineError: There is no engine, it does not fit and may not be built again, or its model was changed.
        ModelError: Its model is missing or cannot be built here.
        MissingDependencyError: The backend is not installed.
    """
    directory = Path(directory).expanduser().absolute()
    manifest = read_manifest(directory)
    plugin = find_plugin("backends", manifest.backend)
    options = to_builtins(make_options(plugin.Options, manifest.options, manifest.backend))
    model = replace(read_model(directory / _MODEL), name=manifest.model)
    if model.sha256 != manifest.model_sha256:
        raise EngineError(
            f"{directory / _MODEL} is not the model that the engine was built from.",
            "Save the engine again, or build one from the model.",
        )
    engine = Engine(model, manifest.backend, options, manifest.device, directory / manifest.file, manifest.versions)
    misfit = _misfit(engine, manifest)
    if misfit is None:
        return LoadedEngine(engine)
    if not rebuild:
        raise EngineError(
            f"The engine in {directory} cannot be used here: {misfit.reason}.",
            "Let it be built again from its model (rebuild=True, or `workbench engine` with --rebuild).",
        )
    log(f"building again: {misfit.reason}")
    built = build_engine(model, manifest.backend, misfit.options, progress=progress, log=log)
    return LoadedEngine(built, f"It was built again from its model, since {misfit.reason}.")


def _misfit(engine: Engine, manifest: Manifest) -> Misfit | None:
    """Why an engine cannot be used here: damage, other versions, or what its backend says."""
    try:
        check_file(engine)
    except EngineError as error:
        return Misfit(error.message.partition(": ")[2].rstrip("."), engine.options)
    for name, built_with in manifest.versions.items():
        here = _version(name)
        if here and here != built_with:
            return Misfit(f"it was built with {name} {built_with}, and here is {here}", engine.options)
    plugin = find_plugin("backends", engine.backend)
    found: Misfit | None = plugin.misfit(manifest) if hasattr(plugin, "misfit") else None
    return found


def _version(name: str) -> str:
    """Version of an installed package; empty for what is none, such as a driver: the backend looks at that."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
