"""Builds the same engine several times and compares the results: builders choose by timing, so engines differ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import jobs
from workbench.artifact import Manifest, find_manifest
from workbench.backends import build_engine
from workbench.dataset import Dataset
from workbench.engine import BuildLog, Engine, unheard
from workbench.errors import EngineError
from workbench.explorer import EngineDiff, compare_engines
from workbench.jobs import Progress, part_of, silent
from workbench.measure.latency import LatencyStats, measure_latency
from workbench.model import Model
from workbench.plugins import find_plugin
from workbench.workspace import ROOT_VARIABLE, Workspace, fingerprint


@dataclass(frozen=True)
class Rebuild:
    """One of several builds of the same.

    Attributes:
        engine: The engine.
        manifest: What it says of itself: hash, size, seconds.
        diff: How its layers differ from those of the first build; None where the backend does not tell them.
        latency: What was measured in turns with the others; None where nothing here runs it.
    """

    engine: Engine
    manifest: Manifest
    diff: EngineDiff | None = None
    latency: LatencyStats | None = None


def rebuild_engine(
    model: Model,
    backend: str = "tensorrt",
    options: Mapping[str, Any] | None = None,
    *,
    times: int = 3,
    dataset: Dataset | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
    log: BuildLog = unheard,
) -> tuple[Rebuild, ...]:
    """Builds an engine several times, each time as if for the first time, and compares the results.

    Args:
        model: What is built.
        backend: What builds it.
        options: Options of the backend.
        times: How often; builds that an earlier call made are found again.
        dataset: Samples to time them with; random values if there are none.
        workspace: Where the engines are kept, apart from those in use.
        progress: Called with the share done and a short text; may raise to cancel.
        log: Called with each line that the backend says.

    Raises:
        EngineError: The backend builds no files, so that nothing can differ.
        ModelError: The backend cannot build the model.
    """
    root = (workspace or Workspace()).root / "rebuilds"
    engines: list[Engine] = []
    manifests: list[Manifest] = []
    for number in range(times):
        report = part_of(progress, 0.8 * number / times, 0.8 * (number + 1) / times, f"build {number + 1}: ")
        place = root / f"{fingerprint({'model': model.sha256, 'backend': backend})}-{number}"
        engine: Engine = jobs.run_watched(_build, place, model, backend, options, progress=report, watch=log)
        manifest = find_manifest(engine)
        if manifest is None:
            raise EngineError(
                f"{backend} compiles {model.name} when it opens it: there are no builds to compare.",
                "Compare candidates of this backend by their latency instead.",
            )
        engines.append(engine)
        manifests.append(manifest)
    plugin = find_plugin("backends", backend)
    tells = hasattr(plugin, "optimized")
    diffs = [compare_engines(engines[0], engine, workspace=workspace) if tells else None for engine in engines]
    stats: list[LatencyStats | None] = [None] * times
    if engines[0].device in plugin.devices():
        stats = [*measure_latency(engines, dataset=dataset, progress=part_of(progress, 0.8, 1.0))]
    return tuple(
        Rebuild(engine, manifest, diff, each)
        for engine, manifest, diff, each in zip(engines, manifests, diffs, stats, strict=True)
    )


def _build(
    place: Path,
    model: Model,
    backend: str,
    options: Mapping[str, Any] | None,
    progress: Progress,
    tell: BuildLog,
) -> Engine:
    """Runs in the worker: builds in a workspace of its own, where no earlier build is found."""
    os.environ[ROOT_VARIABLE] = str(place)
    return build_engine(model, backend, options, progress=progress, log=tell)
