"""Backends: one file each makes engines of models and runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench import jobs
from workbench.artifact import find_manifest
from workbench.dataset import Dataset
from workbench.engine import BuildCheck, BuildLog, Engine, Runner, unheard
from workbench.jobs import Progress, silent
from workbench.model import Model
from workbench.options import make_options
from workbench.plugins import find_plugin, list_plugins
from workbench.support import Unsupported
from workbench.workspace import Workspace, writing


def build_engine(
    model: Model,
    backend: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    *,
    progress: Progress = silent,
    log: BuildLog = unheard,
) -> Engine:
    """Makes a model ready for a backend.

    What is built runs in a subprocess and is kept in the workspace, under everything that decides it.

    Args:
        model: Any model.
        backend: Name of the backend.
        options: Options of it.
        progress: Called with the share done and a short text; may raise to cancel.
        log: Called with each line that the backend says while it builds.

    Raises:
        ModelError: The backend cannot build the model.
        ProviderError: The device or provider asked for is not to be had here.
        MissingDependencyError: The backend is not installed.
        OptionsError: An option does not exist or has a value it cannot have.
    """
    plugin = find_plugin("backends", backend)
    engine: Engine = plugin.build(model, make_options(plugin.Options, options, backend), progress, log)
    return engine


def check_build(model: Model, backend: str, options: Mapping[str, Any] | None = None) -> tuple[BuildCheck, ...]:
    """Says before a build what is known to fail, or to come out otherwise than one might think.

    Returns:
        What the backend looked at; nothing where it does not look.

    Raises:
        MissingDependencyError: The backend is not installed.
        OptionsError: An option does not exist or has a value it cannot have.
    """
    plugin = find_plugin("backends", backend)
    checked = make_options(plugin.Options, options, backend)
    found: tuple[BuildCheck, ...] = plugin.checks(model, checked) if hasattr(plugin, "checks") else ()
    return found


@contextlib.contextmanager
def open_runner(engine: Engine) -> Iterator[Runner]:
    """Opens an engine in this process for as long as the block lasts.

    Raises:
        ProviderError: The provider that would really run is not the one asked for.
        ModelError: The backend refuses the model.
    """
    with find_plugin("backends", engine.backend).open_runner(engine) as runner:
        yield runner


def predict(
    engine: Engine,
    dataset: Dataset,
    *,
    batch: int = 32,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> dict[str, NDArray[Any]]:
    """Runs every sample once in a fresh subprocess and keeps the outputs in the workspace.

    Args:
        engine: What to run.
        dataset: The samples; they must fit the engine's model.
        batch: Samples per inference; 1 where the model's batch is fixed at 1.
        workspace: Where the outputs are kept, and found again by a rerun.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        One array per output, samples along the first axis.
    """
    dataset.check_fits(engine.model)
    key = {"engine": engine_key(engine), "dataset": dataset.sha256, "batch": batch}

    names = [spec.name for spec in engine.model.outputs]  # any text: not for use as keys of the archive

    def make(folder: Any) -> None:
        outputs = jobs.run(_predict, engine, dataset, batch, progress=progress)
        with writing(folder / "outputs.npz"):
            np.savez(folder / "outputs.npz", *(outputs[name] for name in names))

    folder = (workspace or Workspace()).artifact("outputs", key, make)
    with np.load(folder / "outputs.npz") as archive:
        return {name: archive[f"arr_{number}"] for number, name in enumerate(names)}


def find_unsupported(model: Model, *, progress: Progress = silent) -> dict[str, tuple[Unsupported, ...]]:
    """Finds, for each installed backend that can tell, the operators of a model that it does not run.

    Args:
        model: Any model; its weights are not read.
        progress: Called with the share done and a short text; may raise to cancel.

    Returns:
        By backend, what it does not run; nothing where it runs everything.
    """
    # A subprocess: libraries have been seen to crash on models of strangers.
    return {
        plugin.name: jobs.run(_unsupported, plugin.name, model, progress=progress)
        for plugin in list_plugins("backends")
        if plugin.available and hasattr(find_plugin("backends", plugin.name), "unsupported")
    }


def _unsupported(backend: str, model: Model, progress: Progress) -> tuple[Unsupported, ...]:
    progress(0.1, f"asking {backend} for each operator")
    found: tuple[Unsupported, ...] = find_plugin("backends", backend).unsupported(model)
    return found


def engine_key(engine: Engine) -> dict[str, Any]:
    """Everything that decides what an engine computes and how fast, without the place where it lies."""
    key = {
        "model": engine.model.sha256,
        "backend": engine.backend,
        "options": dict(engine.options),
        "device": engine.device,
        "versions": dict(engine.versions),
    }
    if manifest := find_manifest(engine):
        key["file"] = manifest.sha256  # builds of the same can differ
    return key


def _predict(engine: Engine, dataset: Dataset, batch: int, progress: Progress) -> dict[str, NDArray[Any]]:
    fixed = engine.model.fixed_batch
    size = fixed or batch
    parts: list[dict[str, NDArray[Any]]] = []
    done = 0
    with open_runner(engine) as runner:
        for feed in dataset.batches(size):
            count = len(next(iter(feed.values())))
            outputs = runner.infer({name: _padded(array, size) for name, array in feed.items()} if fixed else feed)
            parts.append({name: array[:count] for name, array in outputs.items()})
            done += count
            progress(done / len(dataset), f"scoring {done}/{len(dataset)}")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _padded(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The last batch of a model with a fixed batch is filled up with its last sample."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
