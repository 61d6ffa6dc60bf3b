"""Exporters: one file or folder each writes a candidate as a package that runs as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.backends import engine_key, predict
from workbench.comparison import Candidate, Row
from workbench.dataset import Dataset
from workbench.engine import Tensors
from workbench.errors import ExportError
from workbench.jobs import Progress, part_of, silent
from workbench.options import make_options, to_builtins
from workbench.plugins import find_plugin
from workbench.provenance import CHECKSUMS as CHECKSUMS
from workbench.provenance import MANIFEST as MANIFEST
from workbench.provenance import Origin, check_key, sign, write_provenance
from workbench.serving_measurements import Measurements
from workbench.serving_plan import ServingPlan, plan_serving
from workbench.workspace import Workspace, fingerprint, new_directory, write_json, writing

_LAYOUT = 5  # part of the key of packages in the workspace; goes up when what every package holds changes


@dataclass(frozen=True)
class Package:
    """A written package.

    Attributes:
        directory: Where it lies.
        exporter: The plugin that wrote it.
        name: Name of the served model.
        candidate: Name of the candidate inside.
        command: What starts it, run in `directory` with Python in place of `python`.
    """

    directory: Path
    exporter: str
    name: str
    candidate: str
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What an exporter is given to pack.

    Attributes:
        candidate: What to serve.
        name: Name to serve it under.
        sample: One sample, or a whole batch where the model's is fixed; batch axis first.
        answer: What the candidate answers to it.
        measured: What was measured of it; None if nothing was.
        plan: Every number of the package, and what it was derived from.
        progress: For what takes long: called with the share done and a short text; may raise to cancel.
    """

    candidate: Candidate
    name: str
    sample: Tensors
    answer: Tensors
    measured: Row | None
    plan: ServingPlan
    progress: Progress = silent


def export_package(
    candidate: Candidate,
    exporter: str = "server",
    options: Mapping[str, Any] | None = None,
    *,
    sample: Dataset,
    measured: Row | Measurements | None = None,
    directory: str | Path | None = None,
    sign_key: str | Path | None = None,
    workspace: Workspace | None = None,
    progress: Progress = silent,
) -> Package:
    """Writes a package; it appears under its name only when it is whole.

    Args:
        candidate: What to serve.
        exporter: A plugin of `workbench.exporters`.
        options: Options of that exporter.
        sample: Its first sample (as many as the model's batch, where that is fixed) becomes the package's sample
            request, with the candidate's own answer.
        measured: The candidate's row of a comparison, or that and its load curve and sweep: what the numbers of the
            package are derived from.
        directory: A folder that does not exist yet; one in the workspace if None, found again by a rerun.
        sign_key: Private key (PEM, elliptic curve) to sign the package with; it is not signed if None.
        workspace: Where intermediate results are kept.
        progress: Called with the share done and a short text; may raise to cancel.

    Raises:
        ExportError: The folder exists, the candidate cannot be packed this way (on its backend, say), or the key
            cannot be used.
        MissingDependencyError: It is to be signed, and what signs is not installed.
        WorkspaceError: The folder cannot be written.
    """
    key_file = Path(sign_key).expanduser() if sign_key else None
    signer = check_key(key_file) if key_file else ""  # said now, not after the work
    check_backend(candidate, exporter)
    plugin = find_plugin("exporters", exporter)
    checked = make_options(plugin.Options, options, f"exporter {exporter}")
    workspace = workspace or Workspace()
    one = sample.take(candidate.engine.model.fixed_batch or 1)
    answer = predict(candidate.engine, one, batch=len(one), workspace=workspace, progress=part_of(progress, 0.0, 0.6))
    found = measured_for(exporter, measured if isinstance(measured, Measurements) else Measurements(measured))
    plan = plan_package(candidate, exporter, found, sample)
    name, report = _slug(candidate.engine.model.name), part_of(progress, 0.7, 0.95)
    contents = Contents(candidate, name, one.inputs, answer, found.row, plan, report)
    if directory is None:
        key = {"engine": engine_key(candidate.engine), "options": to_builtins(checked), "sample": one.sha256}
        key |= {"measured": to_builtins(found), "samples": sample.sha256, "exporter": exporter}
        key |= {"signer": signer, "layout": _LAYOUT}
        final = workspace.root / "packages" / f"{_slug(candidate.name)}-{fingerprint(key)[:8]}"
        if (final / MANIFEST).is_file():
            return read_package(final)
    else:
        final = Path(directory).expanduser().absolute()
        if final.exists():
            raise ExportError(
                f"{final} exists already, and nothing in it is overwritten.", "Choose a folder that does not exist yet."
            )
    progress(0.7, "writing the package")
    with new_directory(final) as folder, writing(final):
        plugin.export(contents, checked, folder)
        manifest = {
            "exporter": exporter,
            "name": contents.name,
            "candidate": candidate.name,
            "history": candidate.engine.model.history,
            "engine": engine_key(candidate.engine),
        }
        write_json(folder / MANIFEST, manifest)
        write_provenance(folder, Origin(candidate, name, exporter, to_builtins(checked), sample.name, found, plan))
        if key_file:
            sign(folder, key_file)
    progress(1.0, "package written")
    return read_package(final)


def check_backend(candidate: Candidate, exporter: str) -> None:
    """Refuses a candidate whose backend an exporter does not run: for before anything is measured for a package of it.

    Raises:
        ExportError: Names the backends that it runs.
    """
    plugin = find_plugin("exporters", exporter)
    known: tuple[str, ...] | None = plugin.backends() if hasattr(plugin, "backends") else None
    if known is not None and candidate.engine.backend not in known:
        raise ExportError(
            f"The exporter {exporter} runs {', '.join(known)}; {candidate.name} is built for "
            f"{candidate.engine.backend}.",
            "Choose a candidate on one of these, or another exporter.",
        )


def is_own_server(exporter: str) -> bool:
    """Whether the packages are of this workbench's own server, which can be measured before one is written.

    An exporter says so by `OWN_SERVER = True`.
    """
    return bool(getattr(find_plugin("exporters", exporter), "OWN_SERVER", False))


def measured_for(exporter: str, found: Measurements) -> Measurements:
    """What counts for the packages of an exporter: what our own server takes says nothing of the server of others."""
    return found if is_own_server(exporter) else replace(found, service=None)


def plan_package(
    candidate: Candidate, exporter: str, found: Measurements, sample: Dataset | None = None
) -> ServingPlan:
    """The numbers that a package of an exporter would have; arguments as of `plan_serving`."""
    return plan_serving(candidate, measured_for(exporter, found), sample, own_server=is_own_server(exporter))


def read_package(directory: Path) -> Package:
    """Describes a package that lies in a folder.

    Raises:
        ExportError: The folder holds none.
    """
    try:
        values = json.loads((directory / MANIFEST).read_bytes())
        return Package(
            directory=directory.absolute(),
            exporter=values["exporter"],
            name=values["name"],
            candidate=values["candidate"],
            # Not read from the file: a package from a stranger must not choose what runs here.
            command=find_plugin("exporters", values["exporter"]).COMMAND,
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise ExportError(
            f"{directory} holds no package: its {MANIFEST} is missing or damaged.", "Export the candidate again."
        ) from None


def _slug(name: str) -> str:
    """A name that files, URLs and containers take."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "model"
