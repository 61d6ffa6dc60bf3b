"""What the folder `provenance` of a package holds: how the candidate was made, what was measured, and on what."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench.backends import engine_key
from workbench.comparison import Candidate
from workbench.errors import WorkbenchError
from workbench.measure.environment import read_environment
from workbench.options import to_builtins
from workbench.plugins import find_plugin, list_plugins, required_versions
from workbench.serving_measurements import Measurements
from workbench.serving_plan import ServingPlan

WORKBENCH = "deployment-workbench"
_LIBRARIES = (WORKBENCH, "numpy", "onnx")


@dataclass(frozen=True)
class Origin:
    """What a package was made of, and by what.

    Attributes:
        candidate: What is served.
        name: Name that it is served under.
        exporter: The plugin that wrote the package.
        options: Every option of it.
        sample: Name of the samples whose first is the package's sample request.
        found: What was measured of the candidate.
        plan: The numbers that follow.
    """

    candidate: Candidate
    name: str
    exporter: str
    options: Mapping[str, Any]
    sample: str
    found: Measurements
    plan: ServingPlan


def recipe_of(origin: Origin) -> dict[str, Any]:
    """A recipe that makes the candidate again; its model and data are names here, to be replaced by paths.

    `run_recipe` takes the whole, and `make_candidate` the entry under `candidates`. What recipes cannot do, such as a
    training, and what came before it, is not in it: then the model that it starts from is the one after that. All
    steps are in the package's manifest. Where the package's numbers were measured, the recipe measures them, too.
    """
    engine = origin.candidate.engine
    known = {plugin.name for plugin in list_plugins("transforms")}
    steps: list[dict[str, Any]] = []
    for step in engine.model.history:
        name = step.transform.replace("-", "_")
        steps = [*steps, {name: portable(step.options)}] if name in known else []
    candidate = {
        "name": origin.candidate.name,
        "transforms": steps,
        "backend": engine.backend,
        "options": portable(engine.options),
    }
    export = {"exporter": origin.exporter, "options": portable(origin.options)}
    measuring = to_builtins(origin.found.options)
    return {
        "model": f"{engine.model.name}.{engine.model.source}",
        "data": {"evaluation": origin.sample, "calibration": ""},
        "candidates": [candidate],
        "export": export if measuring is None else {**export, "measure": measuring},
    }


def measurements_of(origin: Origin) -> dict[str, Any]:
    """What was measured; None for what was not. Paths of this machine are left out."""
    found, engine = origin.found, origin.candidate.engine
    row = to_builtins(found.row) if found.row else None
    if row:
        row["candidate"] = origin.candidate.name
    return {
        "candidate": {"name": origin.candidate.name, **portable(engine_key(engine))},
        "notes": [f"{step.transform}: {note}" for step in engine.model.history for note in step.notes],
        "conversion": to_builtins(engine.model.conversion),
        "row": row,
        "curve": to_builtins(found.curve),
        "sweep": to_builtins(found.sweep),
        "service": to_builtins(found.service),
    }


def environment_of(origin: Origin) -> dict[str, Any]:
    """The machine and the versions that decided the candidate and this package."""
    versions = dict(origin.candidate.engine.versions)
    for step in origin.candidate.engine.model.history:
        with contextlib.suppress(WorkbenchError):  # a step that is no plugin, or whose plugin is not here
            versions |= required_versions(find_plugin("transforms", step.transform))
    versions |= {library: installed_version(library) for library in _LIBRARIES}
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": to_builtins(read_environment()),
        "versions": dict(sorted(versions.items())),
    }


def installed_version(library: str) -> str:
    """The version of a library that is here; `unknown` where it runs without having been installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"


def portable(value: Any) -> Any:
    """Options without the folders of this machine: a file that is here is named by its last part only."""
    if isinstance(value, Mapping):
        return {name: portable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    # Only where it exists: names of nodes begin with a slash too.
    is_path = isinstance(value, str | Path) and Path(value).is_absolute() and len(str(value)) < 4096
    return Path(value).name if is_path and Path(value).exists() else value
