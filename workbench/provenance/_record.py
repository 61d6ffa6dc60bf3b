"""What the folder `provenance` of a package holds: how the candidate was made, what was measured, and on what."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench.backends import engine_key
from workbench.comparison import Candidate
from workbench.errors import WorkbenchError
from workbench.measure.environment import read_environment
from workbench.model import Model
from workbench.options import to_builtins
from workbench.plugins import find_plugin, list_plugins, plugin_modules, required_versions
from workbench.serving_measurements import Measurements
from workbench.serving_plan import ServingPlan
from workbench.transforms._record import KEY

WORKBENCH = "deployment-workbench"
_LIBRARIES = (WORKBENCH, "numpy", "onnx")
_SOME = "calibration samples"  # where no name of theirs is known, but some are needed


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
    steps are in the package's manifest. Where the package's numbers were measured, the recipe measures them, too, and
    of how the latency was measured it says what its row does: the batch and the launches.
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
    row, names = origin.found.row, [name for step in steps for name in step]
    latency = {"latency": {"batch": row.latency.batch, "launches": row.latency.launches}} if row else {}
    return {
        "model": f"{engine.model.name}.{engine.model.source}",
        "data": {"evaluation": origin.sample, "calibration": _calibration(engine.model, names)},
        "candidates": [candidate],
        **latency,
        "export": export if measuring is None else {**export, "measure": measuring},
    }


def _calibration(model: Model, steps: Sequence[str]) -> str:
    """Name of the samples that the last steps took, as the model's file has it; empty if they took none."""
    import onnx

    plugins = plugin_modules("transforms")
    if not any(plugins[name].NEEDS_DATASET for name in steps if name in plugins):
        return ""
    found: list[str] = []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # anybody may have written the metadata
        proto = onnx.load(str(model.path), load_external_data=False)
        text = next((entry.value for entry in proto.metadata_props if entry.key == KEY), "[]")
        found = [str(entry["dataset"]["name"]) for entry in json.loads(text)[-len(steps) :] if "dataset" in entry]
    return " and ".join(dict.fromkeys(found)) or _SOME


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
